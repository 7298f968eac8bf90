package crucible;

import java.io.DataInputStream;
import java.io.FileInputStream;
import java.io.IOException;
import java.lang.reflect.Array;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The judge's requests to the candidate, one at a time. All bytes are counted against the output limit.
 *
 * <p>As in {@code resident/proxies.py}: each request carries a number that cannot be guessed, nothing may wait to be
 * read before we have asked, and whatever is not the protocol ends the conversation.
 */
final class Channel {
    private static final int MAX_SHOWN = 200;
    private static final int MAX_CHANGES = 255;

    private final Frames frames = new Frames();
    private final Map<Integer, Opaque> handles = new HashMap<>();
    private final DataInputStream random;
    private long bytesLeft;
    CandidateGone gone;
    UnsupportedException unsupported;
    Throwable lastRaised;
    boolean isOutOfMemory;
    int numRequests;
    Runnable beforeFirstRequest = () -> {};
    final List<String> signs = new ArrayList<>();

    Channel(long maxBytes) throws IOException {
        bytesLeft = maxBytes;
        random = new DataInputStream(new FileInputStream("/dev/urandom"));
    }

    /** The next message. Throws CandidateGone for everything that ends the conversation. */
    Reader receive() {
        if (gone != null) {
            throw gone;
        }
        try {
            byte[] frame = frames.receive(bytesLeft);
            bytesLeft -= frame.length;
            return new Reader(frame, this::handle);
        } catch (IOException end) {
            throw lose("ended", "the program ended");
        } catch (WireException error) {
            throw lose("output", error.getMessage());
        }
    }

    void send(Writer message) {
        if (gone != null) {
            throw gone;
        }
        try {
            frames.send(message);
        } catch (IOException end) {
            throw lose("ended", "the program ended");
        }
    }

    private CandidateGone lose(String kind, String detail) {
        gone = new CandidateGone(kind, detail);
        return gone;
    }

    CandidateGone protocolError(String detail) {
        signs.add("forged-frame");
        return lose("protocol", detail);
    }

    /** Nothing may wait to be read before we have asked. */
    void expectSilence() {
        try {
            if (gone == null && frames.hasWaiting()) {
                signs.add("early-frame");
                throw lose("protocol", "the program wrote a frame that nobody asked for");
            }
        } catch (IOException end) {
            throw lose("ended", "the program ended");
        }
    }

    /** Makes sure that the candidate still answers; it does when its threads have ended, as Java itself would. */
    void expectPresence() {
        request(-1, null);
    }

    /** What the candidate answers, as a value, or thrown as the exception that it says it threw. */
    Object request(int method, Object self, Object... values) {
        if (gone != null) {
            throw gone;
        }
        if (numRequests++ == 0) {
            beforeFirstRequest.run();
        }
        long sequence = unguessable();
        Writer message = new Writer(this::number).u8(sequence).u4(method).u4(values.length);
        for (Object value : values) {
            message.value(value, 0);
        }
        message.value(self, 0);
        expectSilence();
        send(message);
        Reader reply = receive();
        try {
            return outcome(reply, sequence, values);
        } catch (WireException error) {
            throw error.isTooLarge ? lose("output", error.getMessage()) : protocolError(error.getMessage());
        }
    }

    private long unguessable() {
        try {
            byte[] bytes = new byte[Long.BYTES];
            random.readFully(bytes);
            return new Reader(bytes, null).u8();
        } catch (IOException error) {
            throw new IllegalStateException("no randomness: " + error.getMessage());
        }
    }

    private Object outcome(Reader reply, long sequence, Object[] values) {
        if (reply.u8() != sequence) {
            throw WireException.malformed("a reply out of turn");
        }
        int kind = reply.u1();
        if (kind == 'X') {
            raise(reply);
        } else if (kind != 'R') {
            throw WireException.malformed("a reply of no known kind");
        }
        Object result = reply.value();
        List<Object[]> changes = new ArrayList<>();
        while (!reply.isAtEnd()) {
            int position = reply.u4();
            if (position < 0 || position >= values.length || changes.size() >= MAX_CHANGES) {
                throw WireException.malformed("a malformed change");
            }
            changes.add(new Object[] {values[position], reply.value()});
        }
        try {
            changes.forEach(change -> copyBack(change[0], change[1]));
        } catch (UnsupportedOperationException | ClassCastException | IllegalArgumentException impossible) {
            throw WireException.malformed("a change that the argument does not allow");
        }
        return result;
    }

    /** What is no plain data: an object of the candidate goes back by its number, one of the test cannot cross. */
    private int number(Object value) {
        if (value instanceof Opaque opaque) {
            return opaque.number;
        }
        unsupported = new UnsupportedException("the test passes a value of type " + value.getClass().getName());
        throw unsupported;
    }

    private Object handle(int number, String typeName) {
        String shown = typeName.substring(0, Math.min(typeName.length(), 50));
        return handles.computeIfAbsent(number, made -> new Opaque(made, shown));
    }

    /** Reads what the candidate threw and throws the nearest class of the JDK's own. */
    private void raise(Reader reply) {
        String first = null;
        Throwable nearest = null;
        for (int left = reply.count(4); left > 0; left--) {
            String name = reply.text();
            first = first == null ? name.substring(0, Math.min(name.length(), 100)) : first;
            isOutOfMemory = first.equals("java.lang.OutOfMemoryError");
            nearest = nearest == null ? Raised.ofName(name) : nearest;
        }
        String message = reply.text();
        reply.expectEnd();
        String shown = message.substring(0, Math.min(message.length(), MAX_SHOWN));
        lastRaised = nearest == null ? new CandidateError(first + ": " + shown) : Raised.withMessage(nearest, shown);
        Raised.doThrow(lastRaised);
    }

    /** Makes a mutable argument what the candidate made of its copy; nested objects keep their identity. */
    @SuppressWarnings("unchecked")
    private static void copyBack(Object original, Object changed) {
        if (original instanceof Map && changed instanceof Map) {
            copyMap((Map<Object, Object>) original, (Map<Object, Object>) changed);
        } else if (original instanceof List && changed instanceof List) {
            copyList((List<Object>) original, (List<Object>) changed);
        } else if (original instanceof Collection && changed instanceof Collection) {
            ((Collection<Object>) original).clear();
            ((Collection<Object>) original).addAll((Collection<Object>) changed);
        } else if (original != null && changed != null && original.getClass() == changed.getClass()) {
            copyArray(original, changed);
        } else {
            throw WireException.malformed("a change of another type");
        }
    }

    private static void copyMap(Map<Object, Object> original, Map<Object, Object> changed) {
        original.keySet().removeIf(key -> !changed.containsKey(key));
        for (Map.Entry<Object, Object> entry : changed.entrySet()) {
            Object old = original.get(entry.getKey());
            Object now = kept(old, entry.getValue());
            if (now != old || now == null) {
                original.put(entry.getKey(), now);
            }
        }
    }

    private static void copyList(List<Object> original, List<Object> changed) {
        if (original.size() == changed.size()) {
            for (int index = 0; index < changed.size(); index++) {
                Object now = kept(original.get(index), changed.get(index));
                if (now != original.get(index)) {
                    original.set(index, now);
                }
            }
        } else {
            original.clear();
            original.addAll(changed);
        }
    }

    private static void copyArray(Object original, Object changed) {
        if (!original.getClass().isArray() || Array.getLength(original) != Array.getLength(changed)) {
            throw WireException.malformed("an array of another length");
        }
        for (int index = 0; index < Array.getLength(changed); index++) {
            Array.set(original, index, kept(Array.get(original, index), Array.get(changed, index)));
        }
    }

    /** The old object with the new contents where it can take them, else the new one. */
    private static Object kept(Object old, Object changed) {
        if (old == null || changed == null || old.equals(changed)) {
            return old == null ? changed : changed == null ? null : old;
        }
        boolean isHolder = old instanceof Collection || old instanceof Map || old.getClass().isArray();
        try {
            if (isHolder) {
                copyBack(old, changed);
            }
            return isHolder ? old : changed;
        } catch (UnsupportedOperationException | WireException fixed) {
            return changed;
        }
    }
}
