package crucible;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.Collection;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.OptionalInt;
import java.util.OptionalLong;
import java.util.function.ToIntFunction;
import org.javatuples.Tuple;

/**
 * Writes one frame of typed plain data.
 *
 * <p>A value is a tag (one byte) and its parts; collections, maps and arrays say their kind and their length. Objects
 * that are no plain data are left to {@code special}, which gives a number for them or refuses.
 */
final class Writer {
    static final int MAX_DEPTH = 200;
    private static final int LENGTH_BYTES = 4;
    private static final int MAX_BYTES = 1 << 30;

    private final ToIntFunction<Object> special;
    private byte[] bytes = new byte[512];
    private int size = LENGTH_BYTES;

    Writer(ToIntFunction<Object> special) {
        this.special = special;
    }

    byte[] framed() {
        int length = size - LENGTH_BYTES;
        for (int index = 0; index < LENGTH_BYTES; index++) {
            bytes[index] = (byte) (length >>> (24 - 8 * index));
        }
        return bytes;
    }

    int framedSize() {
        return size;
    }

    /** What was written since {@code start}, a former {@link #framedSize}. */
    byte[] since(int start) {
        return java.util.Arrays.copyOfRange(bytes, start, size);
    }

    private void reserve(int count) {
        if (count < 0 || size + (long) count > MAX_BYTES) {
            throw WireException.tooLarge("a frame of more than " + MAX_BYTES + " bytes");
        }
        if (size + count > bytes.length) {
            bytes = java.util.Arrays.copyOf(bytes, (int) Math.min(MAX_BYTES, Math.max(2L * bytes.length, size + count)));
        }
    }

    Writer u1(int value) {
        reserve(1);
        bytes[size++] = (byte) value;
        return this;
    }

    Writer u2(int value) {
        reserve(2);
        bytes[size++] = (byte) (value >>> 8);
        bytes[size++] = (byte) value;
        return this;
    }

    Writer u4(int value) {
        return u2(value >>> 16).u2(value);
    }

    Writer u8(long value) {
        return u4((int) (value >>> 32)).u4((int) value);
    }

    /** Bytes as they are, with their number before them. */
    Writer block(byte[] block) {
        u4(block.length);
        return raw(block);
    }

    Writer raw(byte[] block) {
        reserve(block.length);
        System.arraycopy(block, 0, bytes, size, block.length);
        size += block.length;
        return this;
    }

    /** UTF-16, so that any text crosses as it is, lone surrogates too. */
    Writer text(String text) {
        int length = text.length();
        u4(length);
        reserve(2 * length);
        for (int index = 0; index < length; index++) {
            char unit = text.charAt(index);
            bytes[size++] = (byte) (unit >>> 8);
            bytes[size++] = (byte) unit;
        }
        return this;
    }

    /** One value, of whatever type. */
    void value(Object value, int depth) {
        if (depth > MAX_DEPTH) {
            throw WireException.tooLarge("a value that is nested too deeply");
        }
        if (value == null) {
            u1('N');
        } else if (value instanceof Integer number) {
            u1('I').u4(number);
        } else if (value instanceof String text) {
            u1('T').text(text);
        } else if (value instanceof Boolean flag) {
            u1('Z').u1(flag ? 1 : 0);
        } else if (value instanceof Long number) {
            u1('J').u8(number);
        } else if (value instanceof Double number) {
            u1('D').u8(Double.doubleToRawLongBits(number));
        } else if (value instanceof Collection<?> items) {
            collection(items, depth + 1);
        } else if (value instanceof Map<?, ?> entries) {
            map(entries, depth + 1);
        } else if (value.getClass().isArray()) {
            array(value, depth + 1);
        } else {
            rarer(value, depth + 1);
        }
    }

    private void rarer(Object value, int depth) {
        if (value instanceof Character unit) {
            u1('C').u2(unit);
        } else if (value instanceof Float number) {
            u1('F').u4(Float.floatToRawIntBits(number));
        } else if (value instanceof Short number) {
            u1('S').u2(number);
        } else if (value instanceof Byte number) {
            u1('B').u1(number);
        } else if (value.getClass() == BigInteger.class) {
            u1('G').block(((BigInteger) value).toByteArray());
        } else if (value.getClass() == BigDecimal.class) {
            BigDecimal number = (BigDecimal) value;
            u1('g').u4(number.scale()).block(number.unscaledValue().toByteArray());
        } else if (value instanceof Tuple tuple) {
            u1('U').items(tuple.toList(), depth);
        } else if (value instanceof Map.Entry<?, ?> entry) {
            u1('E').value(entry.getKey(), depth);
            value(entry.getValue(), depth);
        } else if (!optional(value, depth)) {
            u1('H').u4(special.applyAsInt(value)).text(value.getClass().getSimpleName());
        }
    }

    private boolean optional(Object value, int depth) {
        Object inner;
        char kind;
        if (value instanceof Optional<?> optional) {
            kind = 'o';
            inner = optional.orElse(null);
        } else if (value instanceof OptionalInt optional) {
            kind = 'i';
            inner = optional.isPresent() ? optional.getAsInt() : null;
        } else if (value instanceof OptionalLong optional) {
            kind = 'j';
            inner = optional.isPresent() ? optional.getAsLong() : null;
        } else if (value instanceof OptionalDouble optional) {
            kind = 'd';
            inner = optional.isPresent() ? optional.getAsDouble() : null;
        } else {
            return false;
        }
        u1('O').u1(kind).value(inner, depth);
        return true;
    }

    private void collection(Collection<?> items, int depth) {
        u1('L').u1(Kinds.ofCollection(items)).items(items, depth);
    }

    /** Items with their number, which is what the iterator gives, whatever a size() says. */
    private void items(Iterable<?> items, int depth) {
        int start = size;
        u4(0);
        int count = 0;
        for (Object item : items) {
            value(item, depth);
            count++;
        }
        count(start, count);
    }

    private void map(Map<?, ?> entries, int depth) {
        u1('M').u1(Kinds.ofMap(entries));
        int start = size;
        u4(0);
        int count = 0;
        for (Map.Entry<?, ?> entry : entries.entrySet()) {
            value(entry.getKey(), depth);
            value(entry.getValue(), depth);
            count++;
        }
        count(start, count);
    }

    private void count(int start, int count) {
        int end = size;
        size = start;
        u4(count);
        size = end;
    }

    private void array(Object array, int depth) {
        Class<?> component = array.getClass().getComponentType();
        String name = Kinds.nameOf(component);
        if (name == null) {
            u1('H').u4(special.applyAsInt(array)).text(array.getClass().getSimpleName());
            return;
        }
        int length = java.lang.reflect.Array.getLength(array);
        u1('A').text(name).u4(length);
        if (!component.isPrimitive()) {
            for (Object item : (Object[]) array) {
                value(item, depth);
            }
            return;
        }
        for (int index = 0; index < length; index++) {
            primitive(array, component, index);
        }
    }

    private void primitive(Object array, Class<?> component, int index) {
        if (component == int.class) {
            u4(((int[]) array)[index]);
        } else if (component == long.class) {
            u8(((long[]) array)[index]);
        } else if (component == double.class) {
            u8(Double.doubleToRawLongBits(((double[]) array)[index]));
        } else if (component == boolean.class) {
            u1(((boolean[]) array)[index] ? 1 : 0);
        } else if (component == char.class) {
            u2(((char[]) array)[index]);
        } else if (component == byte.class) {
            u1(((byte[]) array)[index]);
        } else if (component == short.class) {
            u2(((short[]) array)[index]);
        } else {
            u4(Float.floatToRawIntBits(((float[]) array)[index]));
        }
    }
}
