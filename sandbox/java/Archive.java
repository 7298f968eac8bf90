package crucible;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.LinkedList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.TreeSet;
import org.javatuples.Pair;

/**
 * Run once where the start-up image of judge and candidate is made: uses what they use, so that it gets into the image.
 */
public final class Archive {
    private static final String[] CLASSES = {
        "Candidate", "CandidateError", "CandidateGone", "Channel", "Judge", "Opaque", "Raised", "Stub",
    };

    private Archive() {}

    public static void main(String[] arguments) throws ReflectiveOperationException {
        for (String name : CLASSES) {
            Class.forName("crucible." + name);
        }
        List<Object> values = new ArrayList<>(List.of(
                1, 2L, 3.0, 4.0f, (short) 5, (byte) 6, '7', "8", true, new int[] {9}, new String[] {"10"},
                BigInteger.ONE, BigDecimal.TEN, Optional.of(1), Pair.with(1, 2), Map.entry(1, 2),
                new ArrayList<>(List.of(1)), Arrays.asList(1, 2), new LinkedList<>(List.of(1)),
                new HashSet<>(List.of(1)), new LinkedHashSet<>(List.of(1)), new TreeSet<>(List.of(1))));
        values.addAll(List.of(
                new ArrayDeque<>(List.of(1)), new HashMap<>(Map.of(1, 2)), new LinkedHashMap<>(Map.of(1, 2)),
                new TreeMap<>(Map.of(1, 2)), new int[][] {{1}}, new double[] {1}, new long[] {1}, new char[] {'a'}));
        Writer writer = new Writer(value -> 0);
        int start = writer.framedSize();
        writer.value(values, 0);
        Object read = new Reader(writer.since(start), Opaque::new).value();
        Json.of(Map.of("values", List.of(String.valueOf(read), String.format("%d %s", 1, "x"))));
        new Reader(new Writer(null).u4(0).since(4), null);
        ByteClassLoader.read(new Reader(new byte[4], null));
    }
}
