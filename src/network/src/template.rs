//! The configuration template that UpdateRuntimeConfig fills: the part of Go's text/template that containerd's
//! documentation and people's templates use.
//!
//! `{{.PodCIDR}}`, `{{.PodCIDRRanges}}` and `{{.Routes}}`; `{{range .X}}`, `{{range $v := .X}}` and
//! `{{range $i, $v := .X}}` with `{{.}}`, `{{$i}}`, `{{$v}}` inside; `{{if …}}`, `{{else}}`, `{{end}}`;
//! comments, and the trimming `{{-` and `-}}`. Anything else is an error that names it.

use std::net::IpAddr;

/// Nested blocks: far more than a configuration has.
const DEPTH_MAX: usize = 32;

/// Why a template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("line {line}: {{{{{action}}}}} is not one of the actions that are known here")]
    Unknown { line: usize, action: String },
    #[error("line {line}: an action is not closed by }}}}")]
    Unclosed { line: usize },
    #[error("a block is not closed by {{{{end}}}}")]
    NoEnd,
    #[error("line {line}: {{{{{action}}}}} belongs to no block")]
    Stray { line: usize, action: String },
    #[error("line {line}: {{{{{action}}}}} is a list where one value is wanted, or the reverse")]
    Kind { line: usize, action: String },
    #[error("blocks are nested more than {DEPTH_MAX} deep")]
    Depth,
}

/// What a template may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pod_cidr: String,
    ranges: Vec<String>,
    routes: Vec<String>,
}

impl Fields {
    /// From the pod CIDRs, which [`parse_cidrs`] has checked: a default route for each family among them.
    pub(crate) fn new(cidrs: &[String]) -> Self {
        let mut routes = Vec::new();
        for (v6, route) in [(false, "0.0.0.0/0"), (true, "::/0")] {
            if cidrs.iter().any(|cidr| cidr.contains(':') == v6) {
                routes.push(route.to_owned());
            }
        }
        Self { pod_cidr: cidrs.first().cloned().unwrap_or_default(), ranges: cidrs.to_vec(), routes }
    }
}

/// Comma-separated CIDRs; the error is the one that is none.
pub(crate) fn parse_cidrs(text: &str) -> Result<Vec<String>, String> {
    let check = |cidr: &str| {
        let (ip, prefix) = cidr.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then(|| cidr.to_owned())
    };
    text.split(',').map(str::trim).map(|cidr| check(cidr).ok_or_else(|| cidr.to_owned())).collect()
}

/// Fills a template.
pub(crate) fn render(template: &str, fields: &Fields) -> Result<String, TemplateError> {
    let tokens = tokenize(template)?;
    let mut rest = tokens.as_slice();
    let nodes = parse(&mut rest, 0)?;
    if let Some(Token::Action { line, text }) = rest.first() {
        return Err(TemplateError::Stray { line: *line, action: text.clone() });
    }
    let mut out = String::new();
    let mut scope = Scope { fields, dot: None, variables: Vec::new() };
    nodes.iter().try_for_each(|node| scope.run(node, &mut out))?;
    Ok(out)
}

enum Token {
    Text(String),
    Action { line: usize, text: String },
}

fn tokenize(template: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = template;
    let mut line = 1;
    let mut trim = false;
    loop {
        let (text, after) = rest.split_once("{{").map_or((rest, None), |(text, after)| (text, Some(after)));
        let mut shown = if trim { text.trim_start() } else { text };
        line += text.matches('\n').count();
        let Some(after) = after else {
            tokens.push(Token::Text(shown.to_owned()));
            return Ok(tokens);
        };
        let (mut action, after) = after.split_once("}}").ok_or(TemplateError::Unclosed { line })?;
        let lines = action.matches('\n').count();
        // The dash of a trim marker stands apart: {{-3}} would be a number.
        if let Some(marked) = action.strip_prefix('-').filter(|a| a.starts_with(char::is_whitespace)) {
            action = marked;
            shown = shown.trim_end();
        }
        trim = false;
        if let Some(marked) = action.strip_suffix('-').filter(|a| a.ends_with(char::is_whitespace)) {
            action = marked;
            trim = true;
        }
        let action = action.trim();
        tokens.push(Token::Text(shown.to_owned()));
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            tokens.push(Token::Action { line, text: action.to_owned() });
        }
        line += lines;
        rest = after;
    }
}

enum Node {
    Text(String),
    Value(Expression),
    If {
        condition: Expression,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        index: Option<String>,
        value: Option<String>,
        list: Expression,
        body: Vec<Node>,
        empty: Vec<Node>,
    },
}

/// What an action names: `.`, `.Field` or `$variable`.
struct Expression {
    line: usize,
    text: String,
}

fn parse(tokens: &mut &[Token], depth: usize) -> Result<Vec<Node>, TemplateError> {
    if depth > DEPTH_MAX {
        return Err(TemplateError::Depth);
    }
    let mut nodes = Vec::new();
    while let Some((token, rest)) = tokens.split_first() {
        let (line, text) = match token {
            Token::Text(text) => {
                *tokens = rest;
                nodes.push(Node::Text(text.clone()));
                continue;
            }
            Token::Action { line, text } => (*line, text.as_str()),
        };
        let (word, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let argument = argument.trim();
        let expression = |text: &str| Expression { line, text: text.to_owned() };
        match word {
            // The block that they belong to takes them.
            "end" | "else" if argument.is_empty() => return Ok(nodes),
            "if" => {
                *tokens = rest;
                let condition = expression(argument);
                let (then, otherwise) = block(tokens, depth)?;
                nodes.push(Node::If { condition, then, otherwise });
            }
            "range" => {
                *tokens = rest;
                let (names, list) = argument.split_once(":=").unwrap_or(("", argument));
                let mut names: Vec<_> = names
                    .split(',')
                    .map(str::trim)
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect();
                if names.len() > 2 || names.iter().any(|name| !name.starts_with('$')) {
                    return Err(TemplateError::Unknown { line, action: text.to_owned() });
                }
                let value = names.pop();
                let index = names.pop();
                let list = expression(list.trim());
                let (body, empty) = block(tokens, depth)?;
                nodes.push(Node::Range { index, value, list, body, empty });
            }
            _ => {
                *tokens = rest;
                nodes.push(Node::Value(expression(text)));
            }
        }
    }
    Ok(nodes)
}

/// What lies up to `{{end}}`, before and after an `{{else}}`.
fn block(tokens: &mut &[Token], depth: usize) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
    let body = parse(tokens, depth + 1)?;
    let mut closing = close(tokens)?;
    let mut otherwise = Vec::new();
    if closing == "else" {
        otherwise = parse(tokens, depth + 1)?;
        closing = close(tokens)?;
    }
    if closing == "end" { Ok((body, otherwise)) } else { Err(TemplateError::NoEnd) }
}

fn close<'a>(tokens: &mut &'a [Token]) -> Result<&'a str, TemplateError> {
    match tokens.split_first() {
        Some((Token::Action { text, .. }, rest)) => {
            *tokens = rest;
            Ok(text)
        }
        _ => Err(TemplateError::NoEnd),
    }
}

#[derive(Clone)]
enum Value<'a> {
    One(&'a str),
    Many(&'a [String]),
    Index(usize),
}

struct Scope<'a> {
    fields: &'a Fields,
    /// What `.` is inside a range; outside it is the fields, which are no value.
    dot: Option<Value<'a>>,
    variables: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Scope<'a> {
    fn run(&mut self, node: &'a Node, out: &mut String) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Value(expression) => match self.evaluate(expression)? {
                Value::One(text) => out.push_str(text),
                Value::Index(index) => out.push_str(&index.to_string()),
                // As Go prints a list of strings.
                Value::Many(all) => out.push_str(&format!("[{}]", all.join(" "))),
            },
            Node::If { condition, then, otherwise } => {
                let holds = match self.evaluate(condition)? {
                    Value::One(text) => !text.is_empty(),
                    Value::Many(all) => !all.is_empty(),
                    Value::Index(index) => index != 0,
                };
                for node in if holds { then } else { otherwise } {
                    self.run(node, out)?;
                }
            }
            Node::Range { index, value, list, body, empty } => {
                let Value::Many(all) = self.evaluate(list)? else {
                    return Err(TemplateError::Kind { line: list.line, action: list.text.clone() });
                };
                let outer = (self.dot.clone(), self.variables.len());
                for (at, item) in all.iter().enumerate() {
                    self.dot = Some(Value::One(item));
                    self.variables.extend(index.iter().map(|name| (name.as_str(), Value::Index(at))));
                    self.variables
                        .extend(value.iter().map(|name| (name.as_str(), Value::One(item.as_str()))));
                    for node in body {
                        self.run(node, out)?;
                    }
                    self.variables.truncate(outer.1);
                }
                self.dot = outer.0;
                if all.is_empty() {
                    for node in empty {
                        self.run(node, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn evaluate(&self, expression: &Expression) -> Result<Value<'a>, TemplateError> {
        let field = |name: &str| match name {
            "PodCIDR" => Some(Value::One(self.fields.pod_cidr.as_str())),
            "PodCIDRRanges" => Some(Value::Many(&self.fields.ranges)),
            "Routes" => Some(Value::Many(&self.fields.routes)),
            _ => None,
        };
        let text = expression.text.as_str();
        let value = match text.strip_prefix('.') {
            Some("") => self.dot.clone(),
            // Inside a range `.` is a string, which has no fields; `$.` still is the fields.
            Some(name) if self.dot.is_none() => field(name),
            Some(_) => None,
            None => match text.strip_prefix("$.") {
                Some(name) => field(name),
                None => self
                    .variables
                    .iter()
                    .rev()
                    .find(|(name, _)| *name == text)
                    .map(|(_, value)| value.clone()),
            },
        };
        value.ok_or_else(|| TemplateError::Unknown { line: expression.line, action: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str, cidrs: &str) -> Result<String, String> {
        render(template, &Fields::new(&parse_cidrs(cidrs).unwrap())).map_err(|e| e.to_string())
    }

    #[test]
    fn the_forms_that_people_use_are_rendered() {
        let two = "10.1.0.0/24, fd00::/64";
        let ranges =
            r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#;
        for (template, cidrs, expected) in [
            ("plain } text {", two, "plain } text {"),
            ("{{.PodCIDR}}", two, "10.1.0.0/24"),
            ("{{ .PodCIDR }}|{{/* a comment */}}|", two, "10.1.0.0/24||"),
            (ranges, two, r#"[[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]"#),
            (ranges, "10.1.0.0/24", r#"[[{"subnet": "10.1.0.0/24"}]]"#),
            ("{{range .Routes}}<{{.}}>{{end}}", two, "<0.0.0.0/0><::/0>"),
            ("{{range $r := .Routes}}<{{$r}}>{{end}}", "fd00::/64", "<::/0>"),
            ("{{range .Routes}}{{$.PodCIDR}} {{end}}", "10.1.0.0/24", "10.1.0.0/24 "),
            (
                "{{range .Routes}}{{range $.Routes}}{{.}}{{end}};{{.}} {{end}}",
                "10.1.0.0/24",
                "0.0.0.0/0;0.0.0.0/0 ",
            ),
            ("{{if .PodCIDR}}yes{{else}}no{{end}}", two, "yes"),
            ("{{range $i, $r := .Routes}}{{if $i}}b{{else}}a{{end}}{{end}}", two, "ab"),
            ("a \n {{- .PodCIDR -}} \n b", "10.1.0.0/24", "a10.1.0.0/24b"),
            ("{{.Routes}}", two, "[0.0.0.0/0 ::/0]"),
        ] {
            assert_eq!(rendered(template, cidrs).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn anything_else_is_an_error_that_names_it() {
        for (template, error) in [
            ("\n{{.Nope}}", "line 2: {{.Nope}} is not one of the actions that are known here"),
            (
                "{{index .Routes 0}}",
                "line 1: {{index .Routes 0}} is not one of the actions that are known here",
            ),
            ("{{$x}}", "line 1: {{$x}} is not one of the actions that are known here"),
            ("{{.}}", "line 1: {{.}} is not one of the actions that are known here"),
            (
                "{{range $a, $b, $c := .Routes}}{{end}}",
                "line 1: {{range $a, $b, $c := .Routes}} is not one of the actions that are known here",
            ),
            (
                "{{range .Routes}}{{.PodCIDR}}{{end}}",
                "line 1: {{.PodCIDR}} is not one of the actions that are known here",
            ),
            ("{{.PodCIDR", "line 1: an action is not closed by }}"),
            ("{{if .PodCIDR}}", "a block is not closed by {{end}}"),
            ("{{if .PodCIDR}}{{else}}{{else}}{{end}}", "a block is not closed by {{end}}"),
            ("a{{end}}", "line 1: {{end}} belongs to no block"),
            (
                "{{range .PodCIDR}}{{end}}",
                "line 1: {{.PodCIDR}} is a list where one value is wanted, or the reverse",
            ),
        ] {
            assert_eq!(rendered(template, "10.0.0.0/8"), Err(error.to_owned()), "{template}");
        }
        let deep = "{{if .PodCIDR}}".repeat(100) + &"{{end}}".repeat(100);
        assert_eq!(rendered(&deep, "10.0.0.0/8"), Err("blocks are nested more than 32 deep".to_owned()));
    }

    #[test]
    fn cidrs_are_checked_one_by_one() {
        assert_eq!(parse_cidrs("10.0.0.0/8").unwrap(), ["10.0.0.0/8"]);
        assert_eq!(parse_cidrs(" 10.0.0.0/8 ,fd00::/8").unwrap(), ["10.0.0.0/8", "fd00::/8"]);
        for (text, bad) in
            [("", ""), ("10.0.0.0", "10.0.0.0"), ("10.0.0.0/8,x/8", "x/8"), ("::/129", "::/129")]
        {
            assert_eq!(parse_cidrs(text), Err(bad.to_owned()), "{text}");
        }
    }
}
