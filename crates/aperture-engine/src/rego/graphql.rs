//! `graphql.parse_query`: parses GraphQL documents of operations and fragments into the tree that
//! Open Policy Agent returns.

mod lexer;

use std::collections::BTreeMap;

use regorus::Value;

use self::lexer::{Lexeme, Lexer};

/// The deepest nesting of selections, values and types. A document that nests deeper is refused.
const MAX_DEPTH: usize = 64;

/// Returns the tree of a document: `Operations` and `Fragments` with their `SelectionSet`s. Absent
/// fields and empty lists are omitted. Undefined if the text is not a document.
pub(super) fn parse_query(query: &Value) -> Value {
    let tree = query.as_string().ok().and_then(|text| {
        let mut parser = QueryParser {
            lexer: Lexer::new(text),
            next: None,
            depth: 0,
        };
        parser.advance()?;
        parser.document()
    });
    tree.unwrap_or(Value::Undefined)
}

/// Builds an object of the tree.
#[derive(Default)]
struct ObjectBuilder(BTreeMap<Value, Value>);

impl ObjectBuilder {
    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(Value::from(key), value.into());
        self
    }

    /// Adds a list, unless it is empty.
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

/// A recursive descent parser. Its methods return `None` if the text is not a document.
struct QueryParser<'t> {
    lexer: Lexer<'t>,
    next: Option<Lexeme>,
    depth: usize,
}

impl QueryParser<'_> {
    /// Returns the next lexeme and reads the one after it.
    fn advance(&mut self) -> Option<Lexeme> {
        let next = self.lexer.read()?;
        self.next.replace(next).or(Some(Lexeme::End))
    }

    fn is_at(&self, punctuator: char) -> bool {
        self.next == Some(Lexeme::Punctuator(punctuator))
    }

    fn is_at_word(&self, word: &str) -> bool {
        matches!(&self.next, Some(Lexeme::Name(name)) if name == word)
    }

    /// Consumes the punctuator if it is next, and returns whether it was.
    fn take(&mut self, punctuator: char) -> Option<bool> {
        let is_next = self.is_at(punctuator);
        if is_next {
            self.advance()?;
        }
        Some(is_next)
    }

    fn expect(&mut self, punctuator: char) -> Option<()> {
        self.take(punctuator)?.then_some(())
    }

    fn name(&mut self) -> Option<String> {
        match self.advance()? {
            Lexeme::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Runs the parser of a recursive element one level deeper.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Parses one or more items between two punctuators.
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
        while self.next != Some(Lexeme::End) {
            if self.is_at_word("fragment") {
                fragments.push(self.fragment()?);
            } else {
                operations.push(self.operation()?);
            }
        }
        if operations.is_empty() && fragments.is_empty() {
            return None;
        }
        let document = ObjectBuilder::default().with_list("Operations", operations);
        Some(document.with_list("Fragments", fragments).build())
    }

    fn operation(&mut self) -> Option<Value> {
        let mut node = ObjectBuilder::default();
        let (mut kind, mut name) = ("query".to_owned(), String::new());
        if !self.is_at('{') {
            kind = self.name()?;
            if !matches!(&*kind, "query" | "mutation" | "subscription") {
                return None;
            }
            if matches!(self.next, Some(Lexeme::Name(_))) {
                name = self.name()?;
            }
            if self.is_at('(') {
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
        let node = ObjectBuilder::default()
            .with("Name", name)
            .with("TypeCondition", condition)
            .with_list("Directives", self.directives()?);
        Some(node.with_list("SelectionSet", self.selections()?).build())
    }

    fn variable(&mut self) -> Option<Value> {
        self.expect('$')?;
        let mut node = ObjectBuilder::default()
            .with("Variable", self.name()?)
            .with("Used", false);
        self.expect(':')?;
        node = node.with("Type", self.type_reference()?);
        if self.take('=')? {
            node = node.with("DefaultValue", self.value()?);
        }
        Some(node.with_list("Directives", self.directives()?).build())
    }

    fn type_reference(&mut self) -> Option<Value> {
        let node = if self.take('[')? {
            let inner = self.nested(Self::type_reference)?;
            self.expect(']')?;
            ObjectBuilder::default()
                .with("NamedType", "")
                .with("Elem", inner)
        } else {
            ObjectBuilder::default().with("NamedType", self.name()?)
        };
        let required = self.take('!')?;
        Some(node.with("NonNull", required).build())
    }

    fn directives(&mut self) -> Option<Vec<Value>> {
        let mut directives = Vec::new();
        while self.take('@')? {
            let node = ObjectBuilder::default()
                .with("Name", self.name()?)
                .with("Location", "");
            directives.push(node.with_list("Arguments", self.arguments()?).build());
        }
        Some(directives)
    }

    fn arguments(&mut self) -> Option<Vec<Value>> {
        if self.is_at('(') {
            self.list('(', ')', Self::argument)
        } else {
            Some(Vec::new())
        }
    }

    /// Parses an argument of a field, or a member of an object value.
    fn argument(&mut self) -> Option<Value> {
        let node = ObjectBuilder::default().with("Name", self.name()?);
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
        let mut node = ObjectBuilder::default()
            .with("Alias", alias)
            .with("Name", name)
            .with_list("Arguments", self.arguments()?)
            .with_list("Directives", self.directives()?);
        if self.is_at('{') {
            node = node.with_list("SelectionSet", self.selections()?);
        }
        Some(node.build())
    }

    /// Parses the rest of a spread after `...`: the name of a fragment, or an inline fragment.
    fn spread(&mut self) -> Option<Value> {
        if matches!(self.next, Some(Lexeme::Name(_))) && !self.is_at_word("on") {
            let node = ObjectBuilder::default().with("Name", self.name()?);
            return Some(node.with_list("Directives", self.directives()?).build());
        }
        let mut condition = String::new();
        if self.is_at_word("on") {
            self.advance()?;
            condition = self.name()?;
        }
        let node = ObjectBuilder::default()
            .with("TypeCondition", condition)
            .with_list("Directives", self.directives()?);
        Some(node.with_list("SelectionSet", self.selections()?).build())
    }

    /// Parses a value. The numbers of kinds are those of Open Policy Agent.
    fn value(&mut self) -> Option<Value> {
        let literal = |kind: u64, raw: String| {
            Some(
                ObjectBuilder::default()
                    .with("Kind", kind)
                    .with("Raw", raw)
                    .build(),
            )
        };
        let lexeme = self.advance()?;
        match lexeme {
            Lexeme::Punctuator('$') => literal(0, self.name()?),
            Lexeme::Int(raw) => literal(1, raw),
            Lexeme::Float(raw) => literal(2, raw),
            Lexeme::Text(raw) => literal(3, raw),
            Lexeme::BlockText(raw) => literal(4, raw),
            Lexeme::Name(raw) => match &*raw {
                "true" | "false" => literal(5, raw),
                "null" => literal(6, raw),
                _ => literal(7, raw),
            },
            Lexeme::Punctuator('[') => self.nested(|parser| {
                parser.children(8, ']', |parser| {
                    let value = parser.value()?;
                    Some(
                        ObjectBuilder::default()
                            .with("Name", "")
                            .with("Value", value)
                            .build(),
                    )
                })
            }),
            Lexeme::Punctuator('{') => {
                self.nested(|parser| parser.children(9, '}', Self::argument))
            }
            _ => None,
        }
    }

    /// Parses any number of children up to the closing punctuator.
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
        let node = ObjectBuilder::default().with("Kind", kind).with("Raw", "");
        Some(node.with_list("Children", children).build())
    }
}
