package crucible;

import java.io.ByteArrayOutputStream;
import java.io.OutputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaFileManager;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;

/** Takes the compiled classes in memory. */
final class Outputs extends ForwardingJavaFileManager<JavaFileManager> {
    private static final int MAX_BYTES = 1 << 24;

    private final Map<String, ByteArrayOutputStream> classes = new LinkedHashMap<>();

    Outputs(JavaFileManager files) {
        super(files);
    }

    static java.io.Writer nowhere() {
        return java.io.Writer.nullWriter();
    }

    @Override
    public JavaFileObject getJavaFileForOutput(
            Location location, String className, JavaFileObject.Kind kind, FileObject sibling) {
        return new SimpleJavaFileObject(URI.create("memory:///class"), kind) {
            @Override
            public OutputStream openOutputStream() {
                return classes.computeIfAbsent(className, name -> new ByteArrayOutputStream());
            }
        };
    }

    /** The shared file manager stays open for the next request. */
    @Override
    public void close() {}

    /** Writes names and bytes of the classes; none of them unless {@code isGood}. */
    Writer write(Writer answer, boolean isGood) {
        long size = classes.values().stream().mapToLong(ByteArrayOutputStream::size).sum();
        if (!isGood || size > MAX_BYTES) {
            return answer.u4(0);
        }
        answer.u4(classes.size());
        classes.forEach((name, bytes) ->
                answer.block(name.getBytes(StandardCharsets.UTF_8)).block(bytes.toByteArray()));
        return answer;
    }
}
