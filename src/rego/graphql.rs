//! `graphql.parse_query`: GraphQL documents of operations and fragments, as Open Policy Agent
//! shows them.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use regorus::Value;

/// Selections, values and types nested deeper are no document.
const MAX_DEPTH: usize = 64;

/// Returns the document's tree: `Operations` and `Fragments` with their `SelectionSet`s. Fields
/// that are absent or empty lists are left out. Undefined for what is no document.
pub(super) fn parse_query(query: &Value) -> Value {
    let tree = query.as_string().ok().and_then(|text| {
        let mut parser = Parser {
            tokens: Tokens(text.chars().peekable()),
            next: None,
            depth: 0,
        };
        parser.advance()?;
        parser.document()
    });
    tree.unwrap_or(Value::Undefined)
}

/// Members of an object that is being built.
#[derive(Default)]
struct Node(BTreeMap<Value, Value>);

impl Node {
    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(Value::from(key), value.into());
        self
    }

    /// A list, unless it is empty.
    fn with_list(self, key: &str, items: Vec<Value>) -> Self {
        if items.is_empty() {
            self
        } else {
            self.with(key, items)
        }
    }

    fn build(self) -> Value {
        Value::from(self.0)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Int(String),
    Float(String),
    Text(String),
    BlockText(String),
    /// `...` is a `.`.
    Sign(char),
    End,
}

struct Tokens<'t>(Peekable<Chars<'t>>);

struct Parser<'t> {
    tokens: Tokens<'t>,
    next: Option<Token>,
    depth: usize,
}

impl Parser<'_> {
    /// Takes the next token and reads the one behind it.
    fn advance(&mut self) -> Option<Token> {
        let next = self.tokens.read()?;
        self.next.replace(next).or(Some(Token::End))
    }

    fn at(&self, sign: char) -> bool {
        self.next == Some(Token::Sign(sign))
    }

    fn at_word(&self, word: &str) -> bool {
        matches!(&self.next, Some(Token::Name(name)) if name == word)
    }

    /// Takes the sign if it is next.
    fn take(&mut self, sign: char) -> Option<bool> {
        let there = self.at(sign);
        if there {
            self.advance()?;
        }
        Some(there)
    }

    fn expect(&mut self, sign: char) -> Option<()> {
        self.take(sign)?.then_some(())
    }

    fn name(&mut self) -> Option<String> {
        match self.advance()? {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Runs a parser of something that may hold itself.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// One or more between two signs.
    fn list<T>(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.expect(open)?;
        let mut items = vec![item(self)?];
        while !self.take(close)? {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn document(&mut self) -> Option<Value> {
        let (mut operations, mut fragments) = (Vec::new(), Vec::new());
        while self.next != Some(Token::End) {
            if self.at_word("fragment") {
                fragments.push(self.fragment()?);
            } else {
                operations.push(self.operation()?);
            }
        }
        if operations.is_empty() && fragments.is_empty() {
            return None;
        }
        let document = Node::default().with_list("Operations", operations);
        Some(document.with_list("Fragments", fragments).build())
    }

    fn operation(&mut self) -> Option<Value> {
        let mut node = Node::default();
        let (mut kind, mut name) = ("query".to_owned(), String::new());
        if !self.at('{') {
            kind = self.name()?;
            if !matches!(&*kind, "query" | "mutation" | "subscription") {
                return None;
            }
            if matches!(self.next, Some(Token::Name(_))) {
                name = self.name()?;
            }
            if self.at('(') {
                let variables = self.list('(', ')', Self::variable)?;
                node = node.with_list("VariableDefinitions", variables);
            }
            node = node.with_list("Directives", self.directives()?);
        }
        let selections = self.selections()?;
        node = node.with("Operation", kind).with("Name", name);
        Some(node.with_list("SelectionSet", selections).build())
    }

    fn fragment(&mut self) -> Option<Value> {
        self.advance()?;
        let name = self.name()?;
        if name == "on" || self.name()? != "on" {
            return None;
        }
        let condition = self.name()?;
        let node = Node::default()
            .with("Name", name)
            .with("TypeCondition", condition)
            .with_list("Directives", self.directives()?);
        Some(node.with_list("SelectionSet", self.selections()?).build())
    }

    fn variable(&mut self) -> Option<Value> {
        self.expect('$')?;
        let mut node = Node::default()
            .with("Variable", self.name()?)
            .with("Used", false);
        self.expect(':')?;
        node = node.with("Type", self.kind()?);
        if self.take('=')? {
            node = node.with("DefaultValue", self.value()?);
        }
        Some(node.with_list("Directives", self.directives()?).build())
    }

    fn kind(&mut self) -> Option<Value> {
        let node = if self.take('[')? {
            let inner = self.nested(Self::kind)?;
            self.expect(']')?;
            Node::default().with("NamedType", "").with("Elem", inner)
        } else {
            Node::default().with("NamedType", self.name()?)
        };
        let required = self.take('!')?;
        Some(node.with("NonNull", required).build())
    }

    fn directives(&mut self) -> Option<Vec<Value>> {
        let mut directives = Vec::new();
        while self.take('@')? {
            let node = Node::default()
                .with("Name", self.name()?)
                .with("Location", "");
            directives.push(node.with_list("Arguments", self.arguments()?).build());
        }
        Some(directives)
    }

    fn arguments(&mut self) -> Option<Vec<Value>> {
        if self.at('(') {
            self.list('(', ')', Self::argument)
        } else {
            Some(Vec::new())
        }
    }

    /// Of a field, and of a value that is an object.
    fn argument(&mut self) -> Option<Value> {
        let node = Node::default().with("Name", self.name()?);
        self.expect(':')?;
        Some(node.with("Value", self.value()?).build())
    }

    fn selections(&mut self) -> Option<Vec<Value>> {
        self.nested(|parser| parser.list('{', '}', Self::selection))
    }

    fn selection(&mut self) -> Option<Value> {
        if self.take('.')? {
            return self.spread();
        }
        let mut name = self.name()?;
        let alias = name.clone();
        if self.take(':')? {
            name = self.name()?;
        }
        let mut node = Node::default()
            .with("Alias", alias)
            .with("Name", name)
            .with_list("Arguments", self.arguments()?)
            .with_list("Directives", self.directives()?);
        if self.at('{') {
            node = node.with_list("SelectionSet", self.selections()?);
        }
        Some(node.build())
    }

    /// What follows `...`: the name of a fragment, or one that is written here.
    fn spread(&mut self) -> Option<Value> {
        if matches!(self.next, Some(Token::Name(_))) && !self.at_word("on") {
            let node = Node::default().with("Name", self.name()?);
            return Some(node.with_list("Directives", self.directives()?).build());
        }
        let mut condition = String::new();
        if self.at_word("on") {
            self.advance()?;
            condition = self.name()?;
        }
        let node = Node::default()
            .with("TypeCondition", condition)
            .with_list("Directives", self.directives()?);
        Some(node.with_list("SelectionSet", self.selections()?).build())
    }

    /// Kinds are the numbers that the tree of Open Policy Agent has.
    fn value(&mut self) -> Option<Value> {
        let literal = |kind: u64, raw: String| {
            Some(Node::default().with("Kind", kind).with("Raw", raw).build())
        };
        let token = self.advance()?;
        match token {
            Token::Sign('$') => literal(0, self.name()?),
            Token::Int(raw) => literal(1, raw),
            Token::Float(raw) => literal(2, raw),
            Token::Text(raw) => literal(3, raw),
            Token::BlockText(raw) => literal(4, raw),
            Token::Name(raw) => match &*raw {
                "true" | "false" => literal(5, raw),
                "null" => literal(6, raw),
                _ => literal(7, raw),
            },
            Token::Sign('[') => self.nested(|parser| {
                parser.children(8, ']', |parser| {
                    let value = parser.value()?;
                    Some(
                        Node::default()
                            .with("Name", "")
                            .with("Value", value)
                            .build(),
                    )
                })
            }),
            Token::Sign('{') => self.nested(|parser| parser.children(9, '}', Self::argument)),
            _ => None,
        }
    }

    /// None or more up to a sign.
    fn children(
        &mut self,
        kind: u64,
        close: char,
        mut child: impl FnMut(&mut Self) -> Option<Value>,
    ) -> Option<Value> {
        let mut children = Vec::new();
        while !self.take(close)? {
            children.push(child(self)?);
        }
        let node = Node::default().with("Kind", kind).with("Raw", "");
        Some(node.with_list("Children", children).build())
    }
}

impl Tokens<'_> {
    /// The next token; `None` for what is none.
    fn read(&mut self) -> Option<Token> {
        let first = loop {
            match self.0.next() {
                None => return Some(Token::End),
                Some(' ' | '\t' | '\n' | '\r' | ',' | '\u{feff}') => {}
                Some('#') => {
                    while self
                        .0
                        .next_if(|letter| !matches!(letter, '\n' | '\r'))
                        .is_some()
                    {}
                }
                Some(letter) => break letter,
            }
        };
        match first {
            '.' => {
                self.0.next_if_eq(&'.')?;
                self.0.next_if_eq(&'.')?;
                Some(Token::Sign('.'))
            }
            '"' => self.text(),
            '-' | '0'..='9' => self.number(first),
            'a'..='z' | 'A'..='Z' | '_' => {
                let mut name = String::from(first);
                name.push_str(&self.run(|letter| letter.is_ascii_alphanumeric() || letter == '_'));
                Some(Token::Name(name))
            }
            '!' | '$' | '&' | '(' | ')' | ':' | '=' | '@' | '[' | ']' | '{' | '|' | '}' => {
                Some(Token::Sign(first))
            }
            _ => None,
        }
    }

    fn run(&mut self, part: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.0.next_if(|letter| part(*letter))).collect()
    }

    fn number(&mut self, first: char) -> Option<Token> {
        let mut raw = String::from(first);
        raw.push_str(&self.run(|letter| letter.is_ascii_digit()));
        let digits = raw.trim_start_matches('-');
        if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
            return None;
        }
        let mut float = false;
        if self.0.next_if_eq(&'.').is_some() {
            let digits = self.run(|letter| letter.is_ascii_digit());
            if digits.is_empty() {
                return None;
            }
            float = true;
            raw.push('.');
            raw.push_str(&digits);
        }
        if let Some(exponent) = self.0.next_if(|letter| matches!(letter, 'e' | 'E')) {
            float = true;
            raw.push(exponent);
            raw.extend(self.0.next_if(|letter| matches!(letter, '+' | '-')));
            let digits = self.run(|letter| letter.is_ascii_digit());
            if digits.is_empty() {
                return None;
            }
            raw.push_str(&digits);
        }
        Some(if float {
            Token::Float(raw)
        } else {
            Token::Int(raw)
        })
    }

    fn text(&mut self) -> Option<Token> {
        if self.0.next_if_eq(&'"').is_some() {
            if self.0.next_if_eq(&'"').is_none() {
                return Some(Token::Text(String::new()));
            }
            return self.block();
        }
        let mut text = String::new();
        loop {
            match self.0.next()? {
                '"' => return Some(Token::Text(text)),
                '\n' | '\r' => return None,
                '\\' => text.push(match self.0.next()? {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let mut code = 0;
                        for _ in 0..4 {
                            code = code * 16 + self.0.next()?.to_digit(16)?;
                        }
                        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    plain @ ('"' | '\\' | '/') => plain,
                    _ => return None,
                }),
                letter => text.push(letter),
            }
        }
    }

    /// Up to `"""`; the indentation that all lines but the first share goes.
    fn block(&mut self) -> Option<Token> {
        let mut text = String::new();
        loop {
            text.push(self.0.next()?);
            if text.ends_with("\\\"\"\"") {
                text.truncate(text.len() - 4);
                text.push_str("\"\"\"");
            } else if text.ends_with("\"\"\"") {
                text.truncate(text.len() - 3);
                break;
            }
        }
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let blank = |line: &str| line.trim_matches([' ', '\t']).is_empty();
        let indent = text
            .lines()
            .skip(1)
            .filter(|line| !blank(line))
            .map(|line| line.len() - line.trim_start_matches([' ', '\t']).len());
        let indent = indent.min().unwrap_or(0);
        let lines = text.split('\n').enumerate();
        let lines = lines.map(|(at, line)| {
            let cut = if at == 0 {
                Some(line)
            } else {
                line.get(indent..)
            };
            (at, cut.unwrap_or_default())
        });
        let mut lines: Vec<&str> = lines
            .skip_while(|(_, line)| blank(line))
            .map(|(_, line)| line)
            .collect();
        while lines.last().is_some_and(|line| blank(line)) {
            lines.pop();
        }
        Some(Token::BlockText(lines.join("\n")))
    }
}
