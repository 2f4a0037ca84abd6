//! A large state as an application has it: a table that is written row by row, and takes no memory of its own.

use serde::{Serialize, Serializer, ser::SerializeStruct};

/// So many rows of about 50 bytes of JSON.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// How many rows it has.
    pub rows: usize,
    /// The cell `n` of every row.
    pub n: u64,
    /// A row whose cell is another.
    pub changed: Option<(usize, u64)>,
}

impl Table {
    /// A table that nobody has changed.
    pub const fn new(rows: usize) -> Self {
        Self { rows, n: 0, changed: None }
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut table = serializer.serialize_struct("Table", 1)?;
        table.serialize_field("rows", &Rows(self))?;
        table.end()
    }
}

struct Rows<'a>(&'a Table);

/// Its fields are not in the order of their names, as in most types.
#[derive(Serialize)]
struct Row {
    id: usize,
    name: String,
    price: f64,
    n: u64,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Table { rows, n, changed } = *self.0;
        let cell = |id| changed.filter(|(row, _)| *row == id).map_or(n, |(_, n)| n);
        serializer.collect_seq((0..rows).map(|id| Row { id, name: format!("row {id}"), price: 10.5, n: cell(id) }))
    }
}
