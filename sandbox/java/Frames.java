package crucible;

import java.io.DataInputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;

/**
 * Frames on one descriptor that is read and written: a length (4 bytes, big endian) and so many bytes.
 *
 * <p>The descriptor is standard input: the only one that Java opens by number and that takes both ways.
 */
final class Frames {
    private final FileInputStream input = new FileInputStream(FileDescriptor.in);
    private final FileOutputStream output = new FileOutputStream(FileDescriptor.in);
    private final DataInputStream reader = new DataInputStream(input);

    /** The next frame. Throws EOFException at the end of the stream, WireException for more than maxBytes. */
    byte[] receive(long maxBytes) throws IOException {
        int size = reader.readInt();
        if (size < 0 || size > maxBytes) {
            throw WireException.tooLarge("a frame of " + Integer.toUnsignedString(size) + " bytes");
        }
        // Read as it comes: a length alone must not make the reader reserve memory.
        byte[] frame = reader.readNBytes(size);
        if (frame.length < size) {
            throw new EOFException();
        }
        return frame;
    }

    void send(Writer writer) throws IOException {
        output.write(writer.framed(), 0, writer.framedSize());
    }

    /** True if there is something to be read already; the end of the stream is nothing. */
    boolean hasWaiting() throws IOException {
        return input.available() > 0;
    }
}
