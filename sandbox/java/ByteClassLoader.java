package crucible;

import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/** Defines classes from bytes that came over a stream: nothing of them lies on disk. */
final class ByteClassLoader extends ClassLoader {
    private final Map<String, byte[]> waiting = new HashMap<>();

    ByteClassLoader() {
        super("program", ByteClassLoader.class.getClassLoader());
    }

    /** Reads names and bytes of classes, as {@code sandbox/java/jobs.py} writes them. */
    static ByteClassLoader read(Reader reader) {
        ByteClassLoader loader = new ByteClassLoader();
        for (int left = reader.count(8); left > 0; left--) {
            String name = new String(reader.block(), StandardCharsets.UTF_8);
            loader.waiting.put(name, reader.block());
        }
        return loader;
    }

    @Override
    protected Class<?> findClass(String name) throws ClassNotFoundException {
        byte[] bytes = waiting.remove(name);
        if (bytes == null) {
            throw new ClassNotFoundException(name);
        }
        return defineClass(name, bytes, 0, bytes.length);
    }
}
