package crucible;

/** The candidate can answer no more. Not an Exception, so that a test's {@code catch (Exception e)} lets it through. */
final class CandidateGone extends Error {
    /** {@code ended}, {@code output} or {@code protocol}. */
    final String kind;

    CandidateGone(String kind, String detail) {
        super(detail, null, false, false);
        this.kind = kind;
    }
}
