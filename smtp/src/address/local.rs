//! Local parts: dot-strings and quoted strings.
