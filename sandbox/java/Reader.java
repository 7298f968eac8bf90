package crucible;

import java.lang.reflect.Array;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.AbstractMap;
import java.util.Arrays;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.OptionalInt;
import java.util.OptionalLong;
import java.util.function.BiFunction;
import org.javatuples.Tuple;

/**
 * Reads one frame, and trusts nothing of it: lengths are held against what is left of the frame, depth is capped, and
 * whatever is no value as {@link Writer} writes it is a WireException. All objects it makes are the JDK's own.
 */
final class Reader {
    private static final int MAX_INTERNED = 256;

    private final byte[] bytes;
    private final BiFunction<Integer, String, Object> special;
    private int position;

    /** {@code special} makes what stands for an object that stayed on the other side, from its number and type. */
    Reader(byte[] bytes, BiFunction<Integer, String, Object> special) {
        this.bytes = bytes;
        this.special = special;
    }

    int position() {
        return position;
    }

    boolean isAtEnd() {
        return position == bytes.length;
    }

    int left() {
        return bytes.length - position;
    }

    void expectEnd() {
        if (!isAtEnd()) {
            throw WireException.malformed("bytes after a message");
        }
    }

    int u1() {
        if (position >= bytes.length) {
            throw WireException.malformed("a message that ends early");
        }
        return bytes[position++] & 0xFF;
    }

    int u2() {
        return u1() << 8 | u1();
    }

    int u4() {
        return u2() << 16 | u2();
    }

    long u8() {
        return (long) u4() << 32 | u4() & 0xFFFFFFFFL;
    }

    /** A count of things that take at least so many bytes each, all of them still to come. */
    int count(int leastBytes) {
        int count = u4();
        if (count < 0 || (long) count * leastBytes > left()) {
            throw WireException.malformed("a message that ends early");
        }
        return count;
    }

    byte[] block() {
        int length = count(1);
        position += length;
        return Arrays.copyOfRange(bytes, position - length, position);
    }

    String text() {
        char[] units = new char[count(2)];
        for (int index = 0; index < units.length; index++) {
            units[index] = (char) u2();
        }
        String text = new String(units);
        // Programs that compare texts by == meet literals of the test as one object with their own, as they would alone.
        return units.length <= MAX_INTERNED ? text.intern() : text;
    }

    /** One value. Throws WireException for everything else. */
    Object value() {
        try {
            return value(0);
        } catch (ClassCastException | NullPointerException | NumberFormatException | StackOverflowError error) {
            // Such as a sorted set of what cannot be compared.
            throw WireException.malformed("a value that cannot be: " + error.getClass().getSimpleName());
        }
    }

    private Object value(int depth) {
        if (depth > Writer.MAX_DEPTH + 1) {
            throw WireException.malformed("a value that is nested too deeply");
        }
        int tag = u1();
        switch (tag) {
            case 'N':
                return null;
            case 'Z':
                return flag();
            case 'B':
                return (byte) u1();
            case 'S':
                return (short) u2();
            case 'C':
                return (char) u2();
            case 'I':
                return u4();
            case 'J':
                return u8();
            case 'F':
                return Float.intBitsToFloat(u4());
            case 'D':
                return Double.longBitsToDouble(u8());
            case 'T':
                return text();
            case 'L':
                return Kinds.collection((char) u1(), items(depth + 1));
            case 'M':
                return map(depth + 1);
            case 'A':
                return array(depth + 1);
            default:
                return rarer(tag, depth + 1);
        }
    }

    private Object rarer(int tag, int depth) {
        switch (tag) {
            case 'G':
                return new BigInteger(block());
            case 'g':
                int scale = u4();
                return new BigDecimal(new BigInteger(block()), scale);
            case 'U':
                return tuple(items(depth));
            case 'E':
                Object key = value(depth);
                return new AbstractMap.SimpleEntry<>(key, value(depth));
            case 'O':
                return optional(u1(), depth);
            case 'H':
                int number = u4();
                return special.apply(number, text());
            default:
                throw WireException.malformed("a value of no known kind");
        }
    }

    private Object[] items(int depth) {
        Object[] items = new Object[count(1)];
        for (int index = 0; index < items.length; index++) {
            items[index] = value(depth);
        }
        return items;
    }

    private static Object tuple(Object[] items) {
        if (items.length < 1 || items.length > Tuple.LARGEST) {
            throw WireException.malformed("a tuple of " + items.length);
        }
        return Tuple.of(items);
    }

    private boolean flag() {
        int bit = u1();
        if (bit > 1) {
            throw WireException.malformed("a boolean that is neither true nor false");
        }
        return bit == 1;
    }

    private Object optional(int kind, int depth) {
        Object inner = value(depth);
        return switch (kind) {
            case 'o' -> Optional.ofNullable(inner);
            case 'i' -> inner == null ? OptionalInt.empty() : OptionalInt.of((Integer) inner);
            case 'j' -> inner == null ? OptionalLong.empty() : OptionalLong.of((Long) inner);
            case 'd' -> inner == null ? OptionalDouble.empty() : OptionalDouble.of((Double) inner);
            default -> throw WireException.malformed("an optional of no known kind");
        };
    }

    private Map<Object, Object> map(int depth) {
        char kind = (char) u1();
        Map<Object, Object> filled = Kinds.map(kind);
        for (int left = count(2); left > 0; left--) {
            Object key = value(depth);
            filled.put(key, value(depth));
        }
        return Kinds.sealed(kind, filled);
    }

    private Object array(int depth) {
        Class<?> component = Kinds.component(text());
        Object array = Array.newInstance(component, count(widthOf(component)));
        int length = Array.getLength(array);
        for (int index = 0; index < length; index++) {
            if (component.isPrimitive()) {
                primitive(array, component, index);
            } else {
                store((Object[]) array, index, value(depth));
            }
        }
        return array;
    }

    private static void store(Object[] array, int index, Object item) {
        if (item != null && !array.getClass().getComponentType().isInstance(item)) {
            throw WireException.malformed("an array with an item of another type");
        }
        array[index] = item;
    }

    private static int widthOf(Class<?> component) {
        if (component == long.class || component == double.class) {
            return Long.BYTES;
        } else if (component == int.class || component == float.class) {
            return Integer.BYTES;
        }
        return component == char.class || component == short.class ? 2 : 1;
    }

    private void primitive(Object array, Class<?> component, int index) {
        if (component == int.class) {
            ((int[]) array)[index] = u4();
        } else if (component == long.class) {
            ((long[]) array)[index] = u8();
        } else if (component == double.class) {
            ((double[]) array)[index] = Double.longBitsToDouble(u8());
        } else if (component == boolean.class) {
            ((boolean[]) array)[index] = flag();
        } else if (component == char.class) {
            ((char[]) array)[index] = (char) u2();
        } else if (component == byte.class) {
            ((byte[]) array)[index] = (byte) u1();
        } else if (component == short.class) {
            ((short[]) array)[index] = (short) u2();
        } else {
            ((float[]) array)[index] = Float.intBitsToFloat(u4());
        }
    }
}
