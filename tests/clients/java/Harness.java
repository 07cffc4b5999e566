import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Runs named scenarios and says how each went, one line a scenario: see tests/clients/scenarios.py for the rules. */
final class Harness {
    interface Scenario {
        void run() throws Exception;
    }

    private final Map<String, Scenario> scenarios = new LinkedHashMap<>();
    private final BufferedReader input = new BufferedReader(new InputStreamReader(System.in));

    void add(String name, Scenario scenario) {
        scenarios.put(name, scenario);
    }

    void run(List<String> names) {
        for (String name : names.isEmpty() ? scenarios.keySet() : names) {
            String verdict;
            try {
                scenarios.get(name).run();
                verdict = "PASS " + name;
            } catch (Throwable problem) {
                problem.printStackTrace();
                verdict = "FAIL " + name + ": " + String.valueOf(problem).replace('\n', ' ');
            }
            System.out.println(verdict);
        }
    }

    /** Have the runner do something to the broker; returns when it is done. */
    void ask(String what) throws IOException {
        System.out.println("DO " + what);
        String answer = input.readLine();
        check("DONE".equals(answer), "the runner answered " + answer);
    }

    static void check(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    static void equal(Object expected, Object actual, String what) {
        boolean same = expected instanceof byte[] && actual instanceof byte[]
            ? Arrays.equals((byte[]) expected, (byte[]) actual)
            : java.util.Objects.equals(expected, actual);
        if (!same) {
            throw new AssertionError(what + ": expected " + show(expected) + ", got " + show(actual));
        }
    }

    private static String show(Object value) {
        if (!(value instanceof byte[] bytes)) {
            return String.valueOf(value);
        }
        return bytes.length + " bytes " + java.util.HexFormat.of().formatHex(bytes, 0, Math.min(16, bytes.length));
    }

    /** The scenario's own error: `body` must fail with an exception of this class, by itself or as a cause. */
    static void fails(Class<? extends Throwable> expected, Scenario body) {
        Throwable seen = null;
        try {
            body.run();
        } catch (Throwable problem) {
            seen = problem;
            for (Throwable cause = problem; cause != null; cause = cause.getCause()) {
                if (expected.isInstance(cause)) {
                    return;
                }
            }
        }
        throw new AssertionError("expected " + expected.getSimpleName() + ", got " + (seen == null ? "no error" : seen));
    }

    /** Poll until it holds, for at most 30 seconds. */
    static void eventually(String what, java.util.concurrent.Callable<Boolean> holds) throws Exception {
        long deadline = System.nanoTime() + 30_000_000_000L;
        while (!holds.call()) {
            check(System.nanoTime() < deadline, "not within 30 s: " + what);
            Thread.sleep(20);
        }
    }
}
