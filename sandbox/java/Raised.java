package crucible;

/** Exceptions of the candidate in the judge: classes of java.base only, made by their own constructors. */
final class Raised {
    private Raised() {}

    /** An exception of this class, if it is an Exception (not an Error) of the JDK that can be made; else null. */
    static Throwable ofName(String name) {
        if (!name.startsWith("java.")) {
            return null;
        }
        try {
            Class<?> kind = Class.forName(name, false, null);
            boolean isFit = Exception.class.isAssignableFrom(kind) && kind.getModule() == Object.class.getModule();
            return isFit ? withMessage(kind, null) : null;
        } catch (ReflectiveOperationException | LinkageError missing) {
            return null;
        }
    }

    /** The same class with a message, where it takes one. */
    static Throwable withMessage(Throwable made, String message) {
        try {
            return withMessage(made.getClass(), message);
        } catch (ReflectiveOperationException error) {
            return made;
        }
    }

    private static Throwable withMessage(Class<?> kind, String message) throws ReflectiveOperationException {
        try {
            return (Throwable) kind.getConstructor(String.class).newInstance(message);
        } catch (NoSuchMethodException none) {
            return (Throwable) kind.getConstructor().newInstance();
        }
    }

    /** Throws checked exceptions too, which a stub does not declare. */
    @SuppressWarnings("unchecked")
    static <E extends Throwable> void doThrow(Throwable error) throws E {
        throw (E) error;
    }
}
