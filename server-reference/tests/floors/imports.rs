//! Who imports whom: the files of a crate, and the paths that their code names, in every spelling.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::tokens::{tokens, without_tests};

/// A module's path in its crate; that of `lib.rs` is empty.
pub(crate) type Module = Vec<String>;

/// The files of a crate by their module, each as its tokens.
pub(crate) struct Tree(BTreeMap<Module, Vec<String>>);

impl Tree {
    /// The files below a folder of sources.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut files = Vec::new();
        collect(folder, &mut Vec::new(), &mut files);
        Self::new(files)
    }

    /// Files by their path, like `hub/mod.rs`.
    pub(crate) fn new(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut tree = BTreeMap::new();
        let mut tests = BTreeSet::new();
        for (path, source) in files {
            let mut module: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
                module.pop();
            }
            let (tokens, own_tests) = without_tests(tokens(&source));
            tests.extend(own_tests.into_iter().map(|name| [&module[..], &[name]].concat()));
            tree.insert(module, tokens);
        }
        tree.retain(|module: &Module, _| !tests.iter().any(|test: &Module| module.starts_with(test)));
        Self(tree)
    }

    /// Every file with those it imports from. What a file only passes on counts for who takes it from there.
    pub(crate) fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let edges = |(module, tokens): (&Module, &Vec<String>)| {
            let targets = paths(module, tokens).into_iter().filter(|path| !path.passed_on(tokens));
            let targets = targets.filter_map(|path| self.resolve(module, &path.segments, 8));
            (module.clone(), targets.filter(|target| target != module).collect())
        };
        self.0.iter().map(edges).collect()
    }

    /// The file that a path leads to, through what modules pass on.
    fn resolve(&self, from: &Module, path: &[String], patience: usize) -> Option<Module> {
        let known = (0..=path.len()).rev().find(|&end| self.0.contains_key(&path[..end]))?;
        let (file, rest) = path.split_at(known);
        let (Some(name), Some(tokens), true) = (rest.first(), self.0.get(file), patience > 0) else {
            return Some(file.to_vec());
        };
        if file == from {
            return None;
        }
        let through = paths(&file.to_vec(), tokens).into_iter().find(|path| path.r#use && path.name() == Some(name));
        match through.filter(|through| through.segments != path) {
            Some(through) => self.resolve(from, &through.segments, patience - 1),
            None => Some(file.to_vec()),
        }
    }
}

fn collect(folder: &Path, at: &mut Vec<String>, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        at.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        if path.is_dir() {
            collect(&path, at, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push((at.join("/"), fs::read_to_string(&path).unwrap()));
        }
        at.pop();
    }
}

/// A path that code names, from the root of the crate.
struct Named {
    segments: Vec<String>,
    /// The name that a `use` gives it.
    rename: Option<String>,
    r#use: bool,
    public: bool,
}

impl Named {
    fn name(&self) -> Option<&String> {
        self.rename.as_ref().or(self.segments.last())
    }

    /// Whether it is a re-export whose name the file itself does not use.
    fn passed_on(&self, tokens: &[String]) -> bool {
        let name = self.name();
        self.public && tokens.iter().filter(|&token| Some(token) == name).count() <= 1
    }
}

/// The paths into the crate that a file's code names.
fn paths(module: &Module, tokens: &[String]) -> Vec<Named> {
    let children = children(tokens);
    let (mut found, mut inline, mut depth, mut at) = (Vec::new(), Vec::<(String, usize)>::new(), 0, 0);
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.pop_if(|(_, outer)| *outer == depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|token| token == "{") => {
                inline.push((tokens[at + 1].clone(), depth));
            }
            // `use<…>` is a bound.
            "use" if tokens.get(at + 1).is_some_and(|token| token != "<") => {
                let here: Module = module.iter().chain(inline.iter().map(|(name, _)| name)).cloned().collect();
                let public = at > 0 && (tokens[at - 1] == "pub" || tokens[at - 1] == ")");
                at = group(tokens, at + 1, &here, &children, &mut Vec::new(), public, &mut found);
            }
            "crate" | "super" | "self" if tokens.get(at + 1).is_some_and(|token| token == ":") => {
                let here: Module = module.iter().chain(inline.iter().map(|(name, _)| name)).cloned().collect();
                let mut path = vec![tokens[at].clone()];
                while tokens.get(at + 1).is_some_and(|sign| sign == ":")
                    && tokens.get(at + 2).is_some_and(|sign| sign == ":")
                    && tokens.get(at + 3).is_some_and(|word| word.starts_with(|c: char| c == '_' || c.is_alphabetic()))
                {
                    path.push(tokens[at + 3].clone());
                    at += 3;
                }
                let segments = absolute(&here, &children, &path);
                found.extend(segments.map(|segments| Named { segments, rename: None, r#use: false, public: false }));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The modules that a file declares.
fn children(tokens: &[String]) -> BTreeSet<String> {
    let declared = tokens.windows(3).filter(|words| words[0] == "mod" && matches!(words[2].as_str(), ";" | "{"));
    declared.map(|words| words[1].clone()).collect()
}

/// Reads the tree of a `use` from `at`; where it ends.
fn group(
    tokens: &[String],
    mut at: usize,
    here: &Module,
    children: &BTreeSet<String>,
    prefix: &mut Vec<String>,
    public: bool,
    found: &mut Vec<Named>,
) -> usize {
    let outer = prefix.len();
    let mut rename = None;
    loop {
        let token = tokens.get(at).map_or(";", String::as_str);
        match token {
            "{" => {
                loop {
                    at = group(tokens, at + 1, here, children, prefix, public, found);
                    if tokens.get(at).is_none_or(|token| token != ",") {
                        break;
                    }
                }
                at += 1;
                prefix.truncate(outer);
                return at;
            }
            "," | "}" | ";" => {
                if prefix.len() > outer {
                    // `self` in a group is the group's own module.
                    let own = prefix.len() > 1 && prefix.last().is_some_and(|last| last == "self");
                    let path = if own { &prefix[..prefix.len() - 1] } else { &prefix[..] };
                    let segments = absolute(here, children, path);
                    found.extend(segments.map(|segments| Named { segments, rename, r#use: true, public }));
                }
                prefix.truncate(outer);
                return at;
            }
            ":" => {}
            "as" => {
                at += 1;
                rename = tokens.get(at).cloned();
            }
            word => prefix.push(word.to_owned()),
        }
        at += 1;
    }
}

/// A path from the root of the crate; `None` for one into another crate.
fn absolute(here: &Module, children: &BTreeSet<String>, path: &[String]) -> Option<Module> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => here.clone(),
        child if children.contains(child) => [&here[..], &path[..1]].concat(),
        _ => return None,
    };
    for segment in path {
        match segment.as_str() {
            "super" => drop(base.pop()),
            "crate" | "self" | "*" => {}
            _ if base.last() == Some(segment) && base.len() == here.len() + 1 && path.first() == Some(segment) => {}
            name => base.push(name.to_owned()),
        }
    }
    Some(base)
}
