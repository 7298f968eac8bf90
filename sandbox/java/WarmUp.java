package crucible;

/** Programs of the kind that models write: to make the compiler warm, and the archive of its classes complete. */
final class WarmUp {
    static final String[] SOURCES = {
        """
        import java.io.*;
        import java.math.*;
        import java.util.*;
        import java.util.function.*;
        import java.util.stream.*;

        class WarmUp {
            private final Map<String, List<Integer>> groups = new HashMap<>();

            public static List<Integer> sorted(List<Integer> given, int limit) {
                List<Integer> kept = new ArrayList<>();
                for (int value : given) {
                    if (value % 2 == 0 && value < limit || value == -1) {
                        kept.add(value * value);
                    }
                }
                Collections.sort(kept, (a, b) -> Integer.compare(b, a));
                return kept.stream().filter(x -> x > 0).map(x -> x + 1).collect(Collectors.toList());
            }

            public static String joined(String text) {
                StringBuilder out = new StringBuilder();
                for (char letter : text.toCharArray()) {
                    switch (letter) {
                        case 'a': out.append('b'); break;
                        default: out.append(Character.toUpperCase(letter));
                    }
                }
                try {
                    return String.format("%s-%d", out, Integer.parseInt(text));
                } catch (NumberFormatException error) {
                    return out.reverse().toString();
                }
            }

            interface Shape { double area(); }

            static class Square implements Shape {
                final double side;
                Square(double side) { this.side = side; }
                @Override public double area() { return side * side; }
            }

            int count(int[][] grid) {
                int total = 0;
                outer:
                for (int[] row : grid) {
                    for (int index = row.length - 1; index >= 0; index--) {
                        if (row[index] < 0) continue outer;
                        total += row[index] > 3 ? row[index] : 1;
                    }
                }
                while (total > 100) total /= 2;
                groups.computeIfAbsent("x", key -> new ArrayList<>()).add(total);
                return Math.max(total, groups.size());
            }
        }
        """,
        """
        import java.util.*;

        class WarmUp {
            public static int broken(List<Integer> values) {
                int total = "text";
                for (int value : values) {
                    total += missing(value);
                }
                String unused = total
            }
        }
        """,
        """
        import java.util.*;

        class WarmUp {
            public static int broken(List<Integer> values) {
                int total = "text";
                for (int value : values) {
                    total += missing(value);
                }
            }
        }
        """,
    };

    private WarmUp() {}
}
