//! Bounds the time that the interpreter's parser takes.

use crate::rego::CompileError;

/// The bound on the work of the interpreter's parser, which doubles with each level of brackets:
/// the sum of 2^depth over all opening brackets.
const MAX_BRACKET_WORK: u64 = 1 << 17;

/// Refuses a module whose brackets nest so deeply that parsing would take too long.
pub(in crate::rego) fn check_nesting(module: &str) -> Result<(), CompileError> {
    let (mut depth, mut work) = (0_u32, 0_u64);
    let (mut line, mut column) = (1, 0);
    // The character that ends the current string or comment.
    let mut closing = None;
    let mut escaped = false;
    for letter in module.chars() {
        column += 1;
        if letter == '\n' {
            (line, column) = (line + 1, 0);
        }
        if let Some(end) = closing {
            // Raw strings have no escapes. Comments and quoted strings end with their line.
            if escaped {
                escaped = false;
            } else if letter == '\\' && end == '"' {
                escaped = true;
            } else if letter == end || (end == '"' && letter == '\n') {
                closing = None;
            }
            continue;
        }
        match letter {
            '"' | '`' => closing = Some(letter),
            '#' => closing = Some('\n'),
            '(' | '[' | '{' => {
                work += 1 << depth.min(32);
                depth += 1;
                if work > MAX_BRACKET_WORK {
                    let message =
                        "brackets nest too deeply here: move the inner part to a rule of its own";
                    return Err(CompileError::new((line, column), message.to_owned()));
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}
