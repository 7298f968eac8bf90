"""Hand-made Java rows: one for each shape and type that crosses. Each passes by itself in plain Java too."""

from __future__ import annotations

from dataclasses import dataclass

from problems.java import JavaMethod, JavaSuite, read_method

IMPORTS = "import java.io.*;\nimport java.math.*;\nimport java.util.*;\nimport org.javatuples.*;\n"
_MAIN = """class Main {
    static void check(boolean holds) { if (!holds) { throw new RuntimeException("a check fails"); } }
    public static void main(String[] args) throws Exception {
        %s
    }
}
"""


@dataclass(frozen=True)
class Row:
    """``members`` of the candidate's class C, of which ``names`` are called by ``body``."""

    name: str
    members: str
    body: str
    names: tuple[str, ...] = ("f",)

    @property
    def program(self) -> str:
        return f"{IMPORTS}class C {{\n{self.members}\n}}\n"

    @property
    def test(self) -> str:
        return _MAIN % self.body

    @property
    def methods(self) -> tuple[JavaMethod, ...]:
        return tuple(read_method(self.program, name) for name in self.names)

    @property
    def suite(self) -> JavaSuite:
        return JavaSuite(self.methods, self.test, IMPORTS)


ROWS = [
    Row("int", "public static int f(int a, int b) { return a + b; }", "check(C.f(1, 2) == 3);"),
    Row("int overflow", "static int f(int a) { return a + 1; }", "check(C.f(Integer.MAX_VALUE) == Integer.MIN_VALUE);"),
    Row("long", "static long f(long a) { return a * 2; }", "check(C.f(1L << 60) == 1L << 61);"),
    Row(
        "small numbers",
        "static short f(short a, byte b) { return (short) (a + b); }",
        "check(C.f((short) -300, (byte) -1) == -301);",
    ),
    Row("char", "static char f(char a) { return (char) (a + 1); }", "check(C.f('\\uD7FF') == '\\uD800');"),
    Row("float", "static float f(float a) { return a / 3; }", "check(C.f(1f) == 1f / 3);"),
    Row(
        "double",
        "static double f(double a) { return -a; }",
        "check(1 / C.f(0.0) < 0); check(Double.isNaN(C.f(Double.NaN))); check(C.f(Double.MIN_VALUE) < 0);",
    ),
    Row("boolean", "static boolean f(boolean a) { return !a; }", "check(C.f(false)); check(!C.f(true));"),
    Row(
        "boxed and null",
        "static Integer f(Integer a) { return a == null ? 7 : null; }",
        "check(C.f(null) == 7); check(C.f(1) == null);",
    ),
    Row(
        "Number",
        "static Number f(Number a) { if (a instanceof Double) return 1; return 1.5; }",
        "check(C.f(1.0).equals(1)); check(C.f(1).equals(1.5));",
    ),
    Row(
        "any text",
        "static String f(String a) { return a + '\\uDC00'; }",
        'check(C.f("\\0\\n\\u20ac\\uD83D").equals("\\0\\n\\u20ac\\uD83D\\uDC00"));',
    ),
    Row(
        "literals are one object",
        'static String f(String a) { return a == "one" ? "two" : "three"; }',
        'check(C.f("one").equals("two"));',
    ),
    Row("text by interface", "static CharSequence f(CharSequence a) { return a; }", 'check(C.f("x").equals("x"));'),
    Row(
        "big numbers",
        "static BigInteger f(BigInteger a, BigDecimal b) { return a.multiply(a).add(b.toBigInteger()); }",
        'check(C.f(new BigInteger("-9").pow(99), new BigDecimal("1.50")).bitLength() > 600);',
    ),
    Row(
        "array changed",
        "static void f(int[] a) { Arrays.sort(a); }",
        "int[] a = {3, 1, 2}; C.f(a); check(Arrays.equals(a, new int[] {1, 2, 3}));",
    ),
    Row(
        "inner array changed",
        "static int f(int[][] a) { a[1][0] = 9; a[0] = new int[] {5, 6}; return a.length; }",
        "int[][] a = {{1}, {2}}; int[] inner = a[1]; check(C.f(a) == 2 && inner[0] == 9 && a[0].length == 2);",
    ),
    Row(
        "arrays of all kinds",
        """static Object f(boolean[] a, byte[] b, char[] c, short[] d, long[] e, float[] g, double[] h, String[] i) {
            return new Object[] {a, b, c, d, e, g, h, i, new List[] {List.of(1)}, new Integer[][] {{1, null}}};
        }""",
        """Object[] all = (Object[]) C.f(new boolean[] {true}, new byte[] {-1}, new char[] {'x'}, new short[] {-2},
            new long[] {1L << 40}, new float[] {1.5f}, new double[] {2.5}, new String[] {"y", null});
        check(((boolean[]) all[0])[0] && ((byte[]) all[1])[0] == -1 && ((char[]) all[2])[0] == 'x');
        check(((short[]) all[3])[0] == -2 && ((long[]) all[4])[0] == 1L << 40 && ((float[]) all[5])[0] == 1.5f);
        check(((double[]) all[6])[0] == 2.5 && ((String[]) all[7])[1] == null);
        check(((List[]) all[8])[0].equals(List.of(1)) && ((Integer[][]) all[9])[0][0] == 1);""",
    ),
    Row("varargs", "static int f(String... a) { return a.length; }", 'check(C.f("x", "y") == 2);'.replace(
        '"x", "y"', 'new String[] {"x", "y"}')),
    Row(
        "list",
        "static List<Integer> f(List<Integer> a) { List<Integer> b = new ArrayList<>(a); b.add(4); return b; }",
        "check(C.f(Arrays.asList(1, 2)).equals(Arrays.asList(1, 2, 4)));",
    ),
    Row(
        "list changed",
        "static int f(List<List<Integer>> a) { a.get(0).add(5); a.add(new ArrayList<>()); return a.size(); }",
        """List<Integer> inner = new ArrayList<>(List.of(1)); List<List<Integer>> a = new ArrayList<>(List.of(inner));
        check(C.f(a) == 2); check(a.size() == 2 && a.get(0).equals(List.of(1, 5)));""",
    ),
    Row(
        "inner list changed in place",
        "static int f(List<List<Integer>> a) { a.get(0).set(0, 5); return 1; }",
        """List<Integer> inner = Arrays.asList(1, 2); List<List<Integer>> a = List.of(inner, List.of(3)); C.f(a);
        check(inner.equals(List.of(5, 2)));""",
    ),
    Row(
        "lists that cannot change",
        "static String f(List<Integer> a) { try { a.add(1); return \"grew\"; } "
        "catch (UnsupportedOperationException e) { return \"fixed\"; } }",
        """check(C.f(Arrays.asList(1)).equals("fixed")); check(C.f(List.of(1)).equals("fixed"));
        check(C.f(Collections.emptyList()).equals("fixed")); check(C.f(new ArrayList<>()).equals("grew"));""",
    ),
    Row(
        "other collections",
        """static List<Object> f(LinkedList<Integer> a, Deque<Integer> b, Queue<Integer> c, TreeSet<String> d) {
            a.removeFirst(); b.addFirst(9);
            return new ArrayList<>(List.of(new ArrayList<>(a), b.peekFirst(), c.poll(), d.first()));
        }""",
        """Deque<Integer> b = new ArrayDeque<>(List.of(1));
        List<Object> got = C.f(new LinkedList<>(List.of(1, 2)), b, new PriorityQueue<>(List.of(3, 2)),
            new TreeSet<>(Set.of("z", "y")));
        check(got.equals(List.of(List.of(2), 9, 2, "y"))); check(b.peekFirst() == 9);""",
    ),
    Row(
        "set",
        """static Set<String> f(Set<Integer> a) {
            Set<String> b = new HashSet<>();
            for (int x : a) b.add("" + x);
            return b;
        }""",
        'check(C.f(new HashSet<>(List.of(1, 2))).equals(Set.of("1", "2"))); check(C.f(Set.of()).isEmpty());',
    ),
    Row(
        "map",
        """static HashMap<String, List<Integer>> f(Map<List<Integer>, String> a) {
            HashMap<String, List<Integer>> b = new HashMap<>();
            a.forEach((key, value) -> b.put(value, key));
            return b;
        }""",
        'check(C.f(Map.of(List.of(1, 2), "x")).equals(Map.of("x", List.of(1, 2))));',
    ),
    Row(
        "map changed",
        """static void f(HashMap<String, Integer> a) {
            a.remove("x"); a.merge("y", 1, Integer::sum); a.put("z", null);
        }""",
        """HashMap<String, Integer> a = new HashMap<>(Map.of("x", 1, "y", 2)); C.f(a);
        check(a.size() == 2 && a.get("y") == 3 && a.containsKey("z") && a.get("z") == null);""",
    ),
    Row(
        "order of maps",
        "static Map<String, Integer> f(String[] a) { Map<String, Integer> b = new LinkedHashMap<>(); "
        "for (String x : a) b.put(x, b.size()); return b; }",
        'check(C.f(new String[] {"z", "a", "m"}).toString().equals("{z=0, a=1, m=2}"));',
    ),
    Row(
        "tree map",
        "static TreeMap<Integer, String> f(TreeMap<Integer, String> a) { a.pollFirstEntry(); return a; }",
        'check(C.f(new TreeMap<>(Map.of(2, "b", 1, "a"))).firstKey() == 2);',
    ),
    Row(
        "entry",
        """static Map.Entry<String, Integer> f(Map.Entry<String, Integer> a) {
            return Map.entry(a.getKey(), a.getValue() + 1);
        }""",
        'check(C.f(Map.entry("x", 1)).equals(Map.entry("x", 2)));',
    ),
    Row(
        "optional",
        "static Optional<Long> f(Optional<String> a) { return a.map(Long::parseLong); }",
        'check(C.f(Optional.of("5")).equals(Optional.of(5L))); check(C.f(Optional.empty()).isEmpty());',
    ),
    Row(
        "optional int",
        "static OptionalInt f(int[] a) { return Arrays.stream(a).max(); }",
        "check(C.f(new int[] {1, 3}).getAsInt() == 3); check(C.f(new int[0]).isEmpty());",
    ),
    Row(
        "tuples",
        "static Pair<Long, Triplet<String, Boolean, Float>> f(Pair<Long, Long> a) "
        "{ return Pair.with(a.getValue0() + a.getValue1(), Triplet.with(\"x\", true, 1f)); }",
        'check(C.f(Pair.with(1L, 2L)).equals(Pair.with(3L, Triplet.with("x", true, 1f))));',
    ),
    Row(
        "any object",
        "static Object f(Object a) { return a instanceof List ? ((List<?>) a).size() : a; }",
        'check(C.f(List.of(1, 2)).equals(2)); check(C.f("x").equals("x")); check(C.f(null) == null);',
    ),
    Row(
        "an object comes back",
        "static class Box { int in; } static Object g() { Box b = new Box(); b.in = 5; return b; } "
        "static int f(Object a) { return ((Box) a).in; }",
        "Object box = C.g(); check(C.f(box) == 5); check(!box.equals(C.g())); check(box.equals(box));",
        ("g", "f"),
    ),
    Row(
        "methods of objects",
        "private int total; public int f(int a) { total += a; return total; }",
        "C one = new C(), two = new C(); check(one.f(1) == 1 && one.f(1) == 2 && two.f(5) == 5 && one.f(0) == 2);",
    ),
    Row(
        "state of the class",
        "static int count; static int f() { return ++count; }",
        "check(C.f() == 1); check(C.f() == 2);",
    ),
    Row(
        "several methods",
        "static int f(int a) { return a; } static String g(String a) { return a; }",
        'check(C.f(1) == 1); check(C.g("x").equals("x"));',
        ("f", "g"),
    ),
    Row(
        "exceptions by their class",
        """static int f(int a) throws IOException {
            if (a == 0) throw new IOException("none");
            if (a == 1) throw new Own();
            return Integer.parseInt("x");
        }
        static class Own extends ArithmeticException { Own() { super("own"); } }""",
        """try { C.f(0); check(false); } catch (IOException e) { check(e.getMessage().equals("none")); }
        try { C.f(1); check(false); } catch (ArithmeticException e) { check(e.getMessage().equals("own")); }
        try { C.f(2); check(false); } catch (NumberFormatException e) { }""",
    ),
    Row(
        "much",
        """static List<Integer> f(int a) {
            List<Integer> b = new ArrayList<>();
            for (int i = 0; i < a; i++) b.add(i);
            return b;
        }""",
        "List<Integer> got = C.f(200000); check(got.size() == 200000 && got.get(199999) == 199999);",
    ),
]  # fmt: skip
