package crucible;

/** An object that stayed where it is. It equals nothing but itself, and is never asked. */
final class Opaque {
    final int number;
    private final String typeName;

    Opaque(int number, String typeName) {
        this.number = number;
        this.typeName = typeName;
    }

    @Override
    public String toString() {
        return "<" + typeName + " of the program>";
    }
}
