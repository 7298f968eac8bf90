package crucible;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileObject;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;

/**
 * The resident compiler: sources in, classes or diagnostics out, one request after the other, until its input ends.
 *
 * <p>It never runs what it compiles, processes no annotations, and keeps nothing of one request for the next but the
 * JDK's own index of classes. Request: a length, then for each source its name and its bytes. Answer: a length, then
 * JSON ({@code diagnostics}, {@code odd}: why this process should not be used again, or null), then the classes.
 */
public final class Compiler {
    private static final int MAX_REQUEST_BYTES = 1 << 26;
    private static final List<String> OPTIONS =
            List.of("-proc:none", "-Xlint:none", "-implicit:none", "-g:none", "-classpath");
    private static final int WARM_UP_ROUNDS = 12;

    private final JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    private final StandardJavaFileManager files =
            compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8);
    private final List<String> options;

    private Compiler(String classPath) {
        options = new ArrayList<>(OPTIONS);
        options.add(classPath);
    }

    /** {@code arguments}: the class path of what is compiled. */
    public static void main(String[] arguments) throws IOException {
        DataInputStream input = new DataInputStream(new BufferedInputStream(new FileInputStream(FileDescriptor.in)));
        FileOutputStream output = new FileOutputStream(FileDescriptor.out);
        System.setOut(new PrintStream(OutputStream.nullOutputStream()));
        Compiler compiler = new Compiler(arguments[0]);
        compiler.warmUp();
        send(output, new Writer(null)); // an empty answer: ready
        try {
            while (true) {
                send(output, compiler.answer(request(input)));
            }
        } catch (EOFException end) {
            return;
        }
    }

    private static Reader request(DataInputStream input) throws IOException {
        int size = input.readInt();
        if (size < 0 || size > MAX_REQUEST_BYTES) {
            throw new IOException("a request of " + size + " bytes");
        }
        byte[] bytes = new byte[size];
        input.readFully(bytes);
        return new Reader(bytes, null);
    }

    private static void send(OutputStream output, Writer answer) throws IOException {
        output.write(answer.framed(), 0, answer.framedSize());
        output.flush();
    }

    private Writer answer(Reader request) {
        List<SourceText> sources = new ArrayList<>();
        for (int left = request.count(8); left > 0; left--) {
            String name = new String(request.block(), StandardCharsets.UTF_8);
            sources.add(new SourceText(name, request.block()));
        }
        return compile(sources);
    }

    private Writer compile(List<SourceText> sources) {
        Diagnostics found = new Diagnostics();
        Outputs outputs = new Outputs(files);
        boolean isCompiled = false;
        sources.forEach(found::addEncodingError);
        try {
            isCompiled = compiler.getTask(Outputs.nowhere(), outputs, found, options, null, sources).call();
        } catch (Throwable error) {
            // The compiler's own, or a program too large for it: the client replaces a compiler that says so.
            found.addCrash((error.getCause() == null ? error : error.getCause()).getClass().getSimpleName());
        }
        if (!isCompiled && found.isEmpty()) {
            found.addCrash("Silence");
        }
        boolean isGood = isCompiled && found.isEmpty();
        Writer answer = new Writer(null);
        answer.block(Json.of(Map.of("diagnostics", found.shown())).getBytes(StandardCharsets.US_ASCII));
        return outputs.write(answer, isGood);
    }

    /** Compiles what programs use most a few times, so that the first of them meet a compiler that is warm. */
    private void warmUp() {
        for (int round = 0; round < WARM_UP_ROUNDS; round++) {
            for (String text : WarmUp.SOURCES) {
                compile(List.of(new SourceText("WarmUp.java", text.getBytes(StandardCharsets.UTF_8))));
            }
        }
    }
}
