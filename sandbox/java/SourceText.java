package crucible;

import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CoderResult;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import javax.lang.model.element.Modifier;
import javax.lang.model.element.NestingKind;
import javax.tools.SimpleJavaFileObject;

/** A source in memory, and where its characters stand among its bytes. */
final class SourceText extends SimpleJavaFileObject {
    private final String name;
    private final String text;
    /** The first byte that is no UTF-8; -1 if there is none. */
    final int malformedAt;

    SourceText(String name, byte[] bytes) {
        super(URI.create("memory:///" + name), Kind.SOURCE);
        this.name = name;
        ByteBuffer source = ByteBuffer.wrap(bytes);
        CharBuffer target = CharBuffer.allocate(bytes.length);
        CoderResult end = StandardCharsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
                .decode(source, target, true);
        malformedAt = end.isError() ? source.position() : -1;
        text = malformedAt < 0 ? target.flip().toString() : new String(bytes, StandardCharsets.UTF_8);
    }

    @Override
    public String getName() {
        return name;
    }

    @Override
    public CharSequence getCharContent(boolean ignoreEncodingErrors) {
        return text;
    }

    /** A public class may have any name: what a file is called is our choice. It declares no module or package. */
    @Override
    public boolean isNameCompatible(String simpleName, Kind kind) {
        return kind == Kind.SOURCE && !simpleName.endsWith("-info");
    }

    @Override
    public NestingKind getNestingKind() {
        return null;
    }

    @Override
    public Modifier getAccessLevel() {
        return null;
    }

    /** Bytes before the character at {@code offset}. */
    int bytesBefore(long offset) {
        return utf8Length(0, clipped(offset));
    }

    /** Line, from 1; lines end as Java has it: with CR, LF, or both. */
    int line(long offset) {
        int line = 1;
        for (int index = 0; index < clipped(offset); index++) {
            if (endsLine(index)) {
                line++;
            }
        }
        return line;
    }

    /** Column in bytes, from 1. */
    int column(long offset) {
        int end = clipped(offset);
        int start = end;
        while (start > 0 && !endsLine(start - 1)) {
            start--;
        }
        return utf8Length(start, end) + 1;
    }

    private int clipped(long offset) {
        return (int) Math.max(0, Math.min(offset, text.length()));
    }

    private boolean endsLine(int index) {
        char unit = text.charAt(index);
        boolean isFollowed = index + 1 < text.length() && text.charAt(index + 1) == '\n';
        return unit == '\n' || unit == '\r' && !isFollowed;
    }

    private int utf8Length(int start, int end) {
        int length = 0;
        for (int index = start; index < end; index++) {
            char unit = text.charAt(index);
            // Each half of a surrogate pair counts for two of its four bytes.
            length += unit < 0x80 ? 1 : unit < 0x800 || Character.isSurrogate(unit) ? 2 : 3;
        }
        return length;
    }
}
