package crucible;

import java.io.ByteArrayInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;

/**
 * The candidate's side: holds the program, answers calls. It learns nothing but its classes and the arguments.
 *
 * <p>Whatever a program does to this class it does to itself: the judge believes nothing of what comes back beyond that
 * it is what the candidate chose to return.
 */
public final class Candidate {
    /** The class that was compiled together with the program, and that makes the calls. */
    static final String LINK = "CrucibleLink";

    private static final int MAX_NAMES = 20;
    private static final int MAX_MESSAGE = 200;

    private final Frames frames = new Frames();
    private final List<Object> objects = new ArrayList<>();
    private Method call;

    private Candidate() {}

    /** Serves until the judge hangs up. */
    public static void main(String[] arguments) {
        System.setIn(new ByteArrayInputStream(new byte[0]));
        try {
            new Candidate().serve();
            Runtime.getRuntime().halt(0);
        } catch (EOFException end) {
            Runtime.getRuntime().halt(0);
        } catch (Throwable error) {
            // The program broke its own side of the channel.
            Runtime.getRuntime().halt(1);
        }
    }

    private void serve() throws IOException {
        frames.send(new Writer(null).u1('U'));
        frames.send(load(receive()));
        while (true) {
            Reader request = receive();
            long sequence = request.u8();
            frames.send(answer(sequence, request));
        }
    }

    private Reader receive() throws IOException {
        return new Reader(frames.receive(Integer.MAX_VALUE), (number, name) -> objects.get(number));
    }

    private Writer load(Reader request) {
        try {
            ByteClassLoader loader = ByteClassLoader.read(request);
            for (int left = request.u4(); left > 0; left--) {
                Class.forName(new String(request.block(), StandardCharsets.UTF_8), true, loader);
            }
            call = Class.forName(LINK, true, loader)
                    .getDeclaredMethod("call", int.class, Object.class, Object[].class);
            call.setAccessible(true);
            return new Writer(null).u1('L');
        } catch (Throwable error) {
            boolean isInitializer = error instanceof ExceptionInInitializerError && error.getCause() != null;
            return raised(new Writer(null), isInitializer ? error.getCause() : error);
        }
    }

    private Writer answer(long sequence, Reader request) {
        try {
            return new Writer(this::keep).u8(sequence).raw(perform(request));
        } catch (Throwable error) {
            Throwable cause = error instanceof InvocationTargetException ? error.getCause() : error;
            return raised(new Writer(null).u8(sequence), cause);
        }
    }

    private byte[] perform(Reader request) throws Throwable {
        int method = request.u4();
        Object[] values = new Object[request.u4()];
        byte[][] before = new byte[values.length][];
        for (int index = 0; index < values.length; index++) {
            values[index] = request.value();
            before[index] = isMutable(values[index]) ? written(values[index]) : null;
        }
        Object self = request.value();
        Object result = method < 0 ? awaitThreads() : call.invoke(null, method, self, values.clone());
        Writer reply = new Writer(this::keep).u1('R');
        int start = reply.framedSize();
        reply.value(result, 0);
        changes(reply, values, before);
        return reply.since(start - 1);
    }

    /** Java ends when the last thread that is no daemon has ended, and a program that never does has not ended. */
    private static Object awaitThreads() throws InterruptedException {
        ThreadGroup all = Thread.currentThread().getThreadGroup();
        while (all.getParent() != null) {
            all = all.getParent();
        }
        Thread[] threads = new Thread[all.activeCount() + 16];
        int count = all.enumerate(threads);
        for (int index = 0; index < count; index++) {
            if (!threads[index].isDaemon() && threads[index] != Thread.currentThread()) {
                threads[index].join();
                return awaitThreads();
            }
        }
        return null;
    }

    private void changes(Writer reply, Object[] values, byte[][] before) {
        for (int index = 0; index < values.length; index++) {
            if (before[index] != null) {
                byte[] now = written(values[index]);
                if (!Arrays.equals(now, before[index])) {
                    reply.u4(index).raw(now);
                }
            }
        }
    }

    private static boolean isMutable(Object value) {
        return value instanceof Collection || value instanceof Map || value != null && value.getClass().isArray();
    }

    private byte[] written(Object value) {
        Writer writer = new Writer(this::keep);
        int start = writer.framedSize();
        writer.value(value, 0);
        return writer.since(start);
    }

    /** What is no plain data stays here; the judge gets a number for it. */
    private int keep(Object value) {
        for (int index = 0; index < objects.size(); index++) {
            if (objects.get(index) == value) {
                return index;
            }
        }
        objects.add(value);
        return objects.size() - 1;
    }

    /** Names of the classes, nearest first, and the message. */
    private static Writer raised(Writer writer, Throwable error) {
        List<String> names = new ArrayList<>();
        for (Class<?> kind = error.getClass(); kind != null && names.size() < MAX_NAMES; kind = kind.getSuperclass()) {
            names.add(kind.getName());
        }
        writer.u1('X').u4(names.size());
        names.forEach(writer::text);
        return writer.text(message(error));
    }

    private static String message(Throwable error) {
        try {
            String message = String.valueOf(error.getMessage());
            return message.substring(0, Math.min(MAX_MESSAGE, message.length()));
        } catch (Throwable own) {
            return "";
        }
    }
}
