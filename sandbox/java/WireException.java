package crucible;

/** The other side wrote something that is not the protocol. */
final class WireException extends RuntimeException {
    /** True if what it wrote was the protocol, but too much of it. */
    final boolean isTooLarge;

    private WireException(String message, boolean isTooLarge) {
        super(message, null, false, false);
        this.isTooLarge = isTooLarge;
    }

    static WireException malformed(String what) {
        return new WireException(what, false);
    }

    static WireException tooLarge(String what) {
        return new WireException(what, true);
    }
}
