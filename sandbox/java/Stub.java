package crucible;

/** What the generated stubs call: the candidate's methods, by their numbers in the suite. */
public final class Stub {
    static Channel channel;

    private Stub() {}

    /** A call of a static method. */
    public static Object call(int method, Object... values) {
        return channel.request(method, null, values);
    }

    /** A call of a method of an object that {@link #make} made. */
    public static Object callOn(Object self, int method, Object... values) {
        return channel.request(method, self, values);
    }

    /** A new object of the candidate; it stays there. */
    public static Object make(int constructor) {
        return channel.request(constructor, null);
    }
}
