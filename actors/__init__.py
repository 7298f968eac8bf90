"""Plain classes that cluster/ turns into Ray actors: generator, executor, trainer, reward terms."""
