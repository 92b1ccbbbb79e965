//! The commands `completions` and `man`, whose output is generated from the command line.

use std::io;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::{Args, CompletionsArgs};
use crate::output::{CommandError, print_line};

/// What the generator of man pages defines at the beginning of each part.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode, CommandError> {
    print_line(completion_script(args.shell).trim_end());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man() -> Result<ExitCode, CommandError> {
    print_line(man_page()?.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn completion_script(shell: Shell) -> String {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &*name, &mut script);
    let script = String::from_utf8_lossy(&script);
    // clap_complete 4.6 escapes the hyphens of the program's name in two ways in a script for bash,
    // so that no option of a command would be completed.
    script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}

/// Returns one page for the program and its commands, each in a section of its own.
fn man_page() -> io::Result<String> {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    let man = Man::new(program.clone());
    let mut page = APOSTROPHE.to_owned();
    page += &part(|out| man.render_title(out))?;
    page += &part(|out| man.render_name_section(out))?;
    page += &part(|out| man.render_synopsis_section(out))?;
    page += &part(|out| man.render_description_section(out))?;
    page += &part(|out| man.render_options_section(out))?;
    for command in program.get_subcommands() {
        page += &command_section(command)?;
    }
    page += &part(|out| man.render_extra_section(out))?.replace(".SH EXTRA", ".SH \"EXIT STATUS\"");
    page += &part(|out| man.render_version_section(out))?;
    Ok(page)
}

/// Returns the section of a command, whose own sections become subsections.
fn command_section(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone());
    let name = command.get_name().to_uppercase();
    let mut section = format!(".SH \"COMMAND {name}\"\n");
    section += &part(|out| man.render_description_section(out))?.replace(".SH DESCRIPTION\n", "");
    section += &part(|out| man.render_synopsis_section(out))?;
    section += &part(|out| man.render_options_section(out))?;
    // A line of text that begins with a dot is escaped, so this is a heading.
    Ok(section.replace("\n.SH ", "\n.SS "))
}

fn part(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut part = Vec::new();
    render(&mut part)?;
    let part = String::from_utf8_lossy(&part);
    let part = part.strip_prefix(APOSTROPHE).unwrap_or(&part);
    Ok(part.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    /// Returns the name of each command with its visible options.
    fn commands() -> Vec<(String, Vec<String>)> {
        let program = Args::command();
        let commands = program.get_subcommands();
        let commands = commands.map(|command| {
            let options = command.get_arguments().filter_map(clap::Arg::get_long);
            let options = options.map(ToOwned::to_owned).collect();
            (command.get_name().to_owned(), options)
        });
        let commands: Vec<_> = commands.collect();
        assert!(commands.len() >= 6);
        commands
    }

    #[test]
    fn every_shell_completes_every_command_and_option() {
        for shell in Shell::value_variants() {
            let script = completion_script(*shell);
            assert!(script.contains("tower-aperture-agent"), "{shell}");
            let words: Vec<&str> = script
                .split(|char: char| !char.is_ascii_alphanumeric() && !"-_".contains(char))
                .collect();
            for (command, options) in commands() {
                assert!(words.contains(&&*command), "{shell}: {command}");
                for option in options {
                    // `fish` writes `-l option`.
                    let long = format!("--{option}");
                    assert!(
                        words.contains(&&*long) || words.contains(&&*option),
                        "{shell}: {long}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_man_page_describes_every_command_and_option() {
        let page = man_page().expect("a page");
        assert!(page.contains("\n.TH tower-aperture-agent 1 "), "{page}");
        assert_eq!(page.matches(APOSTROPHE).count(), 1);
        for (command, options) in commands() {
            let heading = format!(".SH \"COMMAND {}\"\n", command.to_uppercase());
            let section = page.split(&heading).nth(1).expect("a section");
            let section = section.split("\n.SH ").next().expect("a section");
            for option in options {
                let escaped = format!("--{option}").replace('-', "\\-");
                assert!(section.contains(&escaped), "{command} {option}: {section}");
            }
        }
        let ends = ["\n.SH \"EXIT STATUS\"\n", "\n.SH VERSION\n"];
        assert!(ends.iter().all(|end| page.contains(end)), "{page}");
    }
}
