package crucible;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The judge's side: runs the suite's own main method, with stubs where it names what the candidate defines.
 *
 * <p>Standard input is the socket to the candidate, standard error the job (to be read), standard output takes the
 * report, as {@code resident/judge.py} writes it, in advance too. A pass means that the main method ran to its end, and
 * that the candidate still answered after it.
 */
public final class Judge {
    private static final int MAX_DETAIL = 200;
    private static final int MAX_JOB_BYTES = 1 << 28;
    private static final String BROKEN = "the suite's main method hangs, or ends by itself, before it calls the program";

    private final Reader job;
    private final Channel channel;
    private final FileOutputStream report = new FileOutputStream(FileDescriptor.out);
    private boolean isStarted;
    private List<Object> load;
    private String broken;
    private List<Object> result;

    private Judge(Reader job, Channel channel) {
        this.job = job;
        this.channel = channel;
    }

    public static void main(String[] arguments) throws IOException {
        System.setOut(new PrintStream(OutputStream.nullOutputStream()));
        System.setErr(System.out);
        byte[] bytes = new FileInputStream(FileDescriptor.err).readNBytes(MAX_JOB_BYTES);
        Reader job = new Reader(bytes, null);
        Judge judge = new Judge(job, new Channel(job.u8()));
        Stub.channel = judge.channel;
        judge.run();
        judge.takeBack();
        judge.write(judge.report());
        Runtime.getRuntime().halt(0);
    }

    private void run() {
        byte[] candidate = job.block();
        String mainClass = new String(job.block(), StandardCharsets.UTF_8);
        ByteClassLoader loader = ByteClassLoader.read(job);
        loader.setDefaultAssertionStatus(true);
        Method main;
        try {
            main = loader.loadClass(mainClass).getMethod("main", String[].class);
            main.setAccessible(true);
        } catch (ReflectiveOperationException | LinkageError error) {
            broken = shown("the suite's main method is not to be had: " + error);
            return;
        }
        if (isLoaded(candidate)) {
            write(Json.of(Map.of("in_advance", BROKEN)));
            channel.beforeFirstRequest = this::takeBack;
            result = judged(main);
        }
    }

    private void write(String text) {
        try {
            report.write(text.getBytes(StandardCharsets.US_ASCII));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    /** What was written in advance no longer holds: from here on the program may be at fault. */
    private void takeBack() {
        try {
            report.getChannel().truncate(0);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private boolean isLoaded(byte[] candidate) {
        try {
            channel.receive(); // "up": sent before the candidate has any code of others
            isStarted = true;
            channel.expectSilence();
            channel.send(new Writer(null).raw(candidate));
            Reader reply = channel.receive();
            int kind = reply.u1();
            if (kind == 'L' && reply.isAtEnd()) {
                return true;
            }
            load = kind == 'X' ? failed(reply) : List.of("failed", "ProtocolError", "a malformed frame");
        } catch (CandidateGone gone) {
            if (isStarted && gone.kind.equals("ended")) {
                channel.signs.add("exit-at-import");
            }
            load = List.of("failed", "Ended", gone.getMessage());
        } catch (WireException error) {
            channel.signs.add("forged-frame");
            load = List.of("failed", "ProtocolError", shown(error.getMessage()));
        }
        return false;
    }

    private static List<Object> failed(Reader reply) {
        String first = null;
        for (int left = reply.count(4); left > 0; left--) {
            String name = reply.text();
            first = first == null ? name : first;
        }
        String name = first == null ? "?" : first.substring(first.lastIndexOf('.') + 1);
        return List.of("failed", name.equals("OutOfMemoryError") ? "MemoryError" : shown(name), shown(reply.text()));
    }

    /** Outcome and detail of the one case that a main method is. */
    private List<Object> judged(Method main) {
        Throwable failure = null;
        try {
            main.invoke(null, (Object) new String[0]);
            channel.expectSilence();
            channel.expectPresence();
        } catch (InvocationTargetException error) {
            failure = error.getCause();
        } catch (CandidateGone gone) {
            failure = gone;
        } catch (IllegalAccessException error) {
            failure = error;
        }
        if (channel.unsupported != null) {
            broken = shown(channel.unsupported.getMessage());
        } else if (channel.gone != null) {
            return List.of("runtime_error", shown(channel.gone.getMessage()));
        } else if (failure != null && channel.numRequests == 0) {
            broken = shown("the suite fails by itself: " + failure);
        }
        return failure == null ? List.of("passed", "") : ofFailure(failure);
    }

    private List<Object> ofFailure(Throwable failure) {
        String detail = shown(failure.toString());
        if (failure == channel.lastRaised || failure.getCause() != null && failure.getCause() == channel.lastRaised) {
            return List.of(channel.isOutOfMemory ? "memory_limit" : "runtime_error", detail);
        }
        return List.of("wrong_answer", detail);
    }

    private static String shown(String text) {
        return text.substring(0, Math.min(text.length(), MAX_DETAIL));
    }

    private String report() {
        Map<String, Object> report = new HashMap<>();
        report.put("cases", result == null ? List.of() : List.of(result));
        report.put("load", load);
        report.put("gone", channel.gone == null ? null : List.of(channel.gone.kind, shown(channel.gone.getMessage())));
        report.put("broken", broken);
        report.put("signs", channel.signs);
        report.put("started", isStarted);
        return Json.of(report);
    }
}
