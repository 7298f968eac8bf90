package crucible;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.LinkedList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.PriorityQueue;
import java.util.Queue;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

/**
 * Which classes stand for collections and maps on the other side, and which types arrays may have.
 *
 * <p>A class of java.util arrives as itself, so that what a program may do with it is what it may do without us between:
 * a list of Arrays.asList stays of fixed size, one of List.of stays as it is. Any other class arrives as the nearest.
 */
final class Kinds {
    private static final Class<?> FIXED = Arrays.asList().getClass();
    private static final Class<?>[] COMPONENTS = {
        boolean.class, byte.class, char.class, short.class, int.class, long.class, float.class, double.class,
        Object.class, String.class, CharSequence.class, Number.class, Boolean.class, Byte.class, Character.class,
        Short.class, Integer.class, Long.class, Float.class, Double.class, BigInteger.class, BigDecimal.class,
        Comparable.class, Collection.class, Iterable.class, List.class, ArrayList.class, LinkedList.class, Set.class,
        HashSet.class, LinkedHashSet.class, TreeSet.class, Map.class, HashMap.class, LinkedHashMap.class,
        TreeMap.class, Map.Entry.class, Queue.class, Deque.class, ArrayDeque.class, Optional.class,
    };
    private static final Map<String, Class<?>> BY_NAME = new HashMap<>();
    private static final int MAX_DIMENSIONS = 8;

    static {
        for (Class<?> component : COMPONENTS) {
            BY_NAME.put(component.getName(), component);
        }
    }

    private Kinds() {}

    static char ofCollection(Collection<?> items) {
        Class<?> kind = items.getClass();
        if (kind == ArrayList.class) {
            return 'a';
        } else if (kind == FIXED) {
            return 'f';
        } else if (kind == LinkedList.class) {
            return 'l';
        } else if (kind == HashSet.class) {
            return 'h';
        } else if (kind == TreeSet.class && ((TreeSet<?>) items).comparator() == null) {
            return 't';
        } else if (kind == ArrayDeque.class) {
            return 'q';
        } else if (kind == PriorityQueue.class && ((PriorityQueue<?>) items).comparator() == null) {
            return 'p';
        } else if (kind == java.util.Stack.class) {
            return 'v';
        }
        boolean isSet = items instanceof Set;
        return isImmutable(kind) ? (isSet ? 'S' : 'I') : isSet ? 'k' : 'a';
    }

    static char ofMap(Map<?, ?> entries) {
        Class<?> kind = entries.getClass();
        if (kind == HashMap.class) {
            return 'h';
        } else if (kind == TreeMap.class && ((TreeMap<?, ?>) entries).comparator() == null) {
            return 't';
        }
        return isImmutable(kind) ? 'I' : 'k';
    }

    private static boolean isImmutable(Class<?> kind) {
        String name = kind.getName();
        return name.startsWith("java.util.ImmutableCollections$")
                || name.startsWith("java.util.Collections$Unmodifiable")
                || name.startsWith("java.util.Collections$Empty")
                || name.startsWith("java.util.Collections$Singleton");
    }

    /** A collection of the kind with these items. */
    static Collection<Object> collection(char kind, Object[] items) {
        List<Object> fixed = Arrays.asList(items);
        return switch (kind) {
            case 'a' -> new ArrayList<>(fixed);
            case 'f' -> fixed;
            case 'I' -> Collections.unmodifiableList(fixed);
            case 'l' -> new LinkedList<>(fixed);
            case 'h' -> new HashSet<>(fixed);
            case 'k' -> new LinkedHashSet<>(fixed);
            case 'S' -> Collections.unmodifiableSet(new LinkedHashSet<>(fixed));
            case 't' -> new TreeSet<>(fixed);
            case 'q' -> new ArrayDeque<>(fixed);
            case 'p' -> new PriorityQueue<>(fixed);
            case 'v' -> stack(fixed);
            default -> throw WireException.malformed("a collection of no known kind");
        };
    }

    private static Collection<Object> stack(List<Object> items) {
        var stack = new java.util.Stack<Object>();
        stack.addAll(items);
        return stack;
    }

    /** An empty map of the kind, to be filled and then given to {@link #sealed}. */
    static Map<Object, Object> map(char kind) {
        return switch (kind) {
            case 'h' -> new HashMap<>();
            case 't' -> new TreeMap<>();
            case 'k', 'I' -> new LinkedHashMap<>();
            default -> throw WireException.malformed("a map of no known kind");
        };
    }

    static Map<Object, Object> sealed(char kind, Map<Object, Object> filled) {
        return kind == 'I' ? Collections.unmodifiableMap(filled) : filled;
    }

    /** The name on the wire of an array's component type; null if arrays of it stay where they are. */
    static String nameOf(Class<?> component) {
        Class<?> innermost = component;
        int dimensions = 0;
        while (innermost.isArray()) {
            innermost = innermost.getComponentType();
            dimensions++;
        }
        boolean isKnown = BY_NAME.get(innermost.getName()) == innermost && dimensions < MAX_DIMENSIONS;
        return isKnown ? "[".repeat(dimensions) + innermost.getName() : null;
    }

    /** The component type of this name, which comes from the other side. */
    static Class<?> component(String name) {
        int dimensions = 0;
        while (dimensions < MAX_DIMENSIONS && dimensions < name.length() && name.charAt(dimensions) == '[') {
            dimensions++;
        }
        Class<?> component = BY_NAME.get(name.substring(dimensions));
        if (component == null || dimensions >= MAX_DIMENSIONS) {
            throw WireException.malformed("an array of no known type");
        }
        for (int index = 0; index < dimensions; index++) {
            component = component.arrayType();
        }
        return component;
    }
}
