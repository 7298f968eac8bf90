package crucible;

/** The candidate threw an Error, such as StackOverflowError. */
final class CandidateError extends Error {
    CandidateError(String description) {
        super(description, null, false, false);
    }
}
