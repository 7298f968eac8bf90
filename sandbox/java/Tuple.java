package org.javatuples;

import java.io.Serializable;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;

/**
 * What programs of MultiPL-E's Java use of the library of this name: immutable tuples of one to five values, written
 * anew after its documented interface.
 */
public abstract class Tuple implements Iterable<Object>, Serializable, Comparable<Tuple> {
    public static final int LARGEST = 5;
    private static final long serialVersionUID = 1L;

    private final Object[] values;

    Tuple(Object... values) {
        this.values = values;
    }

    /** The tuple of so many values. */
    public static Tuple of(Object[] values) {
        return switch (values.length) {
            case 1 -> Unit.with(values[0]);
            case 2 -> Pair.with(values[0], values[1]);
            case 3 -> Triplet.with(values[0], values[1], values[2]);
            case 4 -> Quartet.with(values[0], values[1], values[2], values[3]);
            case 5 -> Quintet.with(values[0], values[1], values[2], values[3], values[4]);
            default -> throw new IllegalArgumentException("no tuple of " + values.length);
        };
    }

    public final int getSize() {
        return values.length;
    }

    public final Object getValue(int position) {
        if (position < 0 || position >= values.length) {
            throw new IllegalArgumentException("no position " + position + " in a tuple of " + values.length);
        }
        return values[position];
    }

    public final List<Object> toList() {
        return Collections.unmodifiableList(Arrays.asList(values));
    }

    public final Object[] toArray() {
        return values.clone();
    }

    public final boolean contains(Object value) {
        return toList().contains(value);
    }

    public final int indexOf(Object value) {
        return toList().indexOf(value);
    }

    @Override
    public final Iterator<Object> iterator() {
        return toList().iterator();
    }

    @Override
    public final String toString() {
        return Arrays.toString(values);
    }

    @Override
    public final int hashCode() {
        return 31 + Arrays.hashCode(values);
    }

    @Override
    public final boolean equals(Object other) {
        return other != null && getClass() == other.getClass() && Arrays.equals(values, ((Tuple) other).values);
    }

    @Override
    @SuppressWarnings("unchecked")
    public int compareTo(Tuple other) {
        for (int index = 0; index < Math.min(values.length, other.values.length); index++) {
            int order = ((Comparable<Object>) values[index]).compareTo(other.values[index]);
            if (order != 0) {
                return order;
            }
        }
        return Integer.compare(values.length, other.values.length);
    }
}
