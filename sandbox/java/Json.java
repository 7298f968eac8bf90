package crucible;

import java.util.Map;

/** Writes JSON: strings, numbers, booleans, null, lists and maps. */
final class Json {
    private Json() {}

    static String of(Object value) {
        StringBuilder text = new StringBuilder();
        write(text, value);
        return text.toString();
    }

    private static void write(StringBuilder text, Object value) {
        if (value instanceof Iterable<?> items) {
            text.append('[');
            String separator = "";
            for (Object item : items) {
                text.append(separator);
                write(text, item);
                separator = ",";
            }
            text.append(']');
        } else if (value instanceof Map<?, ?> entries) {
            text.append('{');
            String separator = "";
            for (Map.Entry<?, ?> entry : entries.entrySet()) {
                text.append(separator);
                string(text, (String) entry.getKey());
                text.append(':');
                write(text, entry.getValue());
                separator = ",";
            }
            text.append('}');
        } else if (value instanceof String string) {
            string(text, string);
        } else {
            text.append(value);
        }
    }

    /** All but plain ASCII is escaped, so that lone surrogates are no trouble either. */
    private static void string(StringBuilder text, String string) {
        text.append('"');
        for (int index = 0; index < string.length(); index++) {
            char unit = string.charAt(index);
            if (unit == '"' || unit == '\\') {
                text.append('\\').append(unit);
            } else if (unit >= ' ' && unit < 0x7F) {
                text.append(unit);
            } else {
                text.append("\\u");
                for (int shift = 12; shift >= 0; shift -= 4) {
                    text.append(Character.forDigit(unit >> shift & 0xF, 16));
                }
            }
        }
        text.append('"');
    }
}
