package crucible;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import javax.tools.Diagnostic;
import javax.tools.DiagnosticListener;
import javax.tools.JavaFileObject;

/** Collects errors, as lists: file, kind, message, line, column, first byte, first byte after it, byte it points to. */
final class Diagnostics implements DiagnosticListener<JavaFileObject> {
    private static final int MAX_ERRORS = 100;
    private static final int MAX_MESSAGE = 500;

    private final List<Object> errors = new ArrayList<>();

    @Override
    public void report(Diagnostic<? extends JavaFileObject> found) {
        if (found.getKind() != Diagnostic.Kind.ERROR || errors.size() >= MAX_ERRORS) {
            return;
        }
        String message = found.getMessage(Locale.ENGLISH);
        String shown = message.substring(0, Math.min(message.length(), MAX_MESSAGE));
        if (found.getSource() instanceof SourceText source && found.getPosition() != Diagnostic.NOPOS) {
            long at = found.getPosition();
            errors.add(List.of(
                    source.getName(), found.getCode(), shown, source.line(at), source.column(at),
                    source.bytesBefore(found.getStartPosition()), source.bytesBefore(found.getEndPosition()),
                    source.bytesBefore(at)));
        } else {
            errors.add(List.of("", found.getCode(), shown, 0, 0, 0, 0, 0));
        }
    }

    /** Sources that are no UTF-8, which a compiler that reads a file refuses too. */
    void addEncodingError(SourceText source) {
        int at = source.malformedAt;
        if (at >= 0) {
            errors.add(List.of(
                    source.getName(), "compiler.err.illegal.char.for.encoding", "unmappable character for UTF-8",
                    0, 0, at, at + 1, at));
        }
    }

    void addCrash(String what) {
        errors.add(List.of("", "compiler.crash", "the compiler gave up: " + what, 0, 0, 0, 0, 0));
    }

    boolean isEmpty() {
        return errors.isEmpty();
    }

    List<Object> shown() {
        return errors;
    }
}
