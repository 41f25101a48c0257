public import Kernel

/// Tunables that no tuner of this executable has: those of tuners from outside.
/// They stay known when the tuner is gone, so that what it changed can be put
/// back.
extension StateFile {
  public func save(foreign tunables: [Tunable]) throws(Failure) {
    try describing { () throws(Database.Failure) in
      try database.transaction { () throws(Database.Failure) in
        // Files of older versions do not have it.
        try database.execute(
          """
          CREATE TABLE IF NOT EXISTS tunable
            (name TEXT PRIMARY KEY, arity, scope, minimum, maximum) WITHOUT ROWID
          """)
        for tunable in tunables {
          try database.run(
            "INSERT OR REPLACE INTO tunable VALUES (?, ?, ?, ?, ?)", .text(tunable.name),
            .text(tunable.arity == .triple ? "triple" : "scalar"),
            .text(tunable.scope == .global ? "global" : "namespace"),
            .integer(tunable.bounds.lowerBound), .integer(tunable.bounds.upperBound))
        }
      }
    }
  }

  public func foreignTunables() throws(Failure) -> [Tunable] {
    try describing { () throws(Database.Failure) in
      let tables = try database.rows(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'tunable'"
      ) { $0.text(0) }
      guard !tables.isEmpty else { return [] }
      return try database.rows(
        "SELECT name, arity, scope, minimum, maximum FROM tunable LIMIT 10000"
      ) { row in
        let (name, minimum, maximum) = (row.text(0), row.integer(3), row.integer(4))
        return ModuleDescription.isTunable(name) && minimum <= maximum
          ? Tunable(
            name, row.text(1) == "triple" ? .triple : .scalar,
            row.text(2) == "global" ? .global : .perNamespace, bounds: minimum...maximum) : nil
      }
    }
  }
}
