package crucible;

/** The test passes something that cannot cross to another process. */
final class UnsupportedException extends RuntimeException {
    UnsupportedException(String what) {
        super(what, null, false, false);
    }
}
