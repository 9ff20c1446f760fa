//! Rules on log lines: what an operator knows of failures that exit codes do not tell. They are matched against the
//! end of a failed attempt's log when its end is reported, and change cause, sentence and what follows.
//!
//! Expressions are matched in linear time and compiled under a size limit, so no rule and no log can stop the server.

use crate::limits;
use fetchml_api::{FailureCause, LogAction, LogRuleMatch, limits::ERROR_BYTES, link::Outcome};
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use std::fmt;

/// A rule as it stands in the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRule {
    /// Regular expression that one line must match; the syntax is that of the crate `regex`.
    pub pattern: String,
    /// What it does about the next attempts.
    pub action: Option<LogAction>,
    /// The cause the failure gets, and with it that cause's rule of retrying.
    pub cause: Option<FailureCause>,
    /// The sentence the failure gets: what happened, what to do.
    pub message: Option<String>,
}

/// What is wrong with the rules of a configuration: all of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct LogRulesError {
    problems: Vec<String>,
}

impl fmt::Display for LogRulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

/// Rules, compiled. The first that matches counts.
#[derive(Debug, Default)]
pub(crate) struct LogRules(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    expression: Regex,
    rule: LogRule,
}

impl LogRules {
    pub(crate) fn compile(rules: &[LogRule]) -> Result<Self, LogRulesError> {
        let (mut compiled, mut problems) = (Vec::new(), Vec::new());
        if rules.len() > limits::LOG_RULES_MAX {
            problems.push(format!("{} log rules are given, at most {} are taken", rules.len(), limits::LOG_RULES_MAX));
        }
        for (number, rule) in (1..).zip(rules.iter().take(limits::LOG_RULES_MAX)) {
            match check(rule) {
                Ok(expression) => compiled.push(Compiled { expression, rule: rule.clone() }),
                Err(found) => {
                    let shown: String = rule.pattern.chars().take(limits::LOG_RULE_SHOWN_CHARS).collect();
                    problems.extend(found.iter().map(|problem| format!("log rule {number} ({shown:?}): {problem}")));
                }
            }
        }
        if problems.is_empty() { Ok(Self(compiled)) } else { Err(LogRulesError { problems }) }
    }

    /// Whether the log of an attempt that ended so is to be looked at.
    pub(crate) fn concern(&self, outcome: &Outcome) -> bool {
        !self.0.is_empty() && outcome.cause.is_some_and(may_be_refined)
    }

    /// Changes an outcome as the first rule says that a line of `tail` matches.
    pub(crate) fn apply(&self, outcome: &mut Outcome, tail: &[u8]) {
        let lines = || tail.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let matching = self.0.iter().find(|rule| lines().any(|line| rule.expression.is_match(line)));
        let Some(Compiled { rule, .. }) = matching else { return };
        outcome.log_rule = Some(LogRuleMatch { pattern: rule.pattern.clone(), action: rule.action });
        if let Some(cause) = rule.cause {
            (outcome.cause, outcome.transient) = (Some(cause), false);
        }
        if let Some(message) = &rule.message {
            outcome.error = Some(message.clone());
        }
    }
}

/// Every problem of one rule.
fn check(rule: &LogRule) -> Result<Regex, Vec<String>> {
    let mut problems = Vec::new();
    if rule.pattern.is_empty() || rule.pattern.len() > limits::LOG_RULE_PATTERN_BYTES {
        problems.push(format!("the pattern must have 1 to {} bytes", limits::LOG_RULE_PATTERN_BYTES));
    }
    if rule.action.is_none() && rule.cause.is_none() && rule.message.is_none() {
        problems.push("it says nothing about what to do: give action, cause or message".to_owned());
    }
    if rule.cause.is_some_and(|cause| !may_be_refined(cause)) {
        problems.push("a log cannot tell that a task was cancelled, preempted, lost or waits for another".to_owned());
    }
    if let Some(message) = &rule.message
        && (message.trim().is_empty() || message.len() > ERROR_BYTES || message.contains(char::is_control))
    {
        problems.push(format!("the message must be one line of 1 to {ERROR_BYTES} bytes"));
    }
    let expression = RegexBuilder::new(&rule.pattern)
        .size_limit(limits::LOG_RULE_COMPILED_BYTES)
        .dfa_size_limit(limits::LOG_RULE_COMPILED_BYTES)
        .build()
        .map_err(|error| reason(&error));
    match expression {
        Ok(expression) if problems.is_empty() => Ok(expression),
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

/// Why an expression cannot be used, in one line.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => {
            "the pattern is too large when compiled; use shorter repetitions or fewer classes".to_owned()
        }
        // The last line says what is wrong; those before it draw the pattern.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!("not a regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
        }
    }
}

/// Whether a log can tell more of a failure with this cause, or give it this cause: not of what the system or a user
/// did to the task.
const fn may_be_refined(cause: FailureCause) -> bool {
    use FailureCause as C;
    match cause {
        C::ExitNonzero
        | C::Signal
        | C::OomHost
        | C::OomGpu
        | C::Timeout
        | C::Stalled
        | C::Launch
        | C::Plugin
        | C::Dataset
        | C::Environment
        | C::Image
        | C::Snapshot
        | C::Quota => true,
        C::Lost | C::Secret | C::Cancelled | C::Dependency | C::Preempted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str) -> LogRule {
        LogRule { pattern: pattern.into(), action: Some(LogAction::DoNotRetry), cause: None, message: None }
    }

    fn applied(rules: &[LogRule], cause: FailureCause, log: &[u8]) -> Outcome {
        let rules = LogRules::compile(rules).unwrap();
        let mut outcome = Outcome { cause: Some(cause), exit_code: Some(1), ..Outcome::default() };
        if rules.concern(&outcome) {
            rules.apply(&mut outcome, log);
        }
        outcome
    }

    #[test]
    fn the_first_rule_with_a_matching_line_counts() {
        let sick = LogRule {
            action: Some(LogAction::ExcludeWorker),
            cause: Some(FailureCause::Launch),
            message: Some("the GPU is broken".into()),
            ..rule("Xid .*: 79$")
        };
        let rules = [sick, rule("^ValueError")];
        let log = b"step 1\nNVRM: Xid (PCI:0000:01): 79\r\nValueError: NaN\n";
        let outcome = applied(&rules, FailureCause::ExitNonzero, log);
        assert_eq!((outcome.cause, outcome.exit_code), (Some(FailureCause::Launch), Some(1)));
        assert_eq!(outcome.error.as_deref(), Some("the GPU is broken"));
        assert_eq!(outcome.log_rule.unwrap().action, Some(LogAction::ExcludeWorker));

        let outcome = applied(&rules, FailureCause::ExitNonzero, b"\xff\xfe\nValueError: NaN");
        assert_eq!((outcome.cause, outcome.error), (Some(FailureCause::ExitNonzero), None));
        assert_eq!(outcome.log_rule.unwrap().pattern, "^ValueError");

        let outcome = applied(&rules, FailureCause::ExitNonzero, b"a ValueError\nXid : 79 \n");
        assert_eq!(outcome.log_rule, None, "anchors are those of a line");
    }

    #[test]
    fn what_was_done_to_a_task_is_not_for_its_log_to_say() {
        for cause in [FailureCause::Cancelled, FailureCause::Preempted, FailureCause::Lost] {
            assert_eq!(applied(&[rule("x")], cause, b"x").log_rule, None, "{cause:?}");
        }
    }

    #[test]
    fn every_problem_of_every_rule_is_named() {
        let silent = LogRule { action: None, ..rule("ok") };
        let odd = LogRule { cause: Some(FailureCause::Lost), message: Some("two\nlines".into()), ..rule("(") };
        let huge = rule(r"\w{2000}");
        let rules = [rule("fine"), silent, odd, huge, rule("")];
        let error = LogRules::compile(&rules).unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#"
        log rule 2 ("ok"): it says nothing about what to do: give action, cause or message
        log rule 3 ("("): a log cannot tell that a task was cancelled, preempted, lost or waits for another
        log rule 3 ("("): the message must be one line of 1 to 8192 bytes
        log rule 3 ("("): not a regular expression: unclosed group
        log rule 4 ("\\w{2000}"): the pattern is too large when compiled; use shorter repetitions or fewer classes
        log rule 5 (""): the pattern must have 1 to 1000 bytes
        "#);
        let error = LogRules::compile(&vec![rule("x"); limits::LOG_RULES_MAX + 1]).unwrap_err().to_string();
        assert_eq!(error, "65 log rules are given, at most 64 are taken");
    }

    #[test]
    fn no_expression_takes_more_than_linear_time() {
        let started = std::time::Instant::now();
        let log = vec![b'a'; limits::LOG_RULE_TAIL_BYTES as usize];
        assert_eq!(applied(&[rule("(a+)+(a+)+(a+)+$b")], FailureCause::Signal, &log).log_rule, None);
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "exponential would never end");
    }
}
