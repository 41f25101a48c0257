import ArgumentParser

/// The C program's `-q`: what its users type, answered by the commands of this
/// one.
enum Query: String, ExpressibleByArgument, CaseIterable {
  case help, summary, tuners, tunables, jtunables, status, jstatus, rollback

  private var explanation: String {
    switch self {
    case .help: "this list"
    case .summary: "what was changed, and how often"
    case .tuners: "the tuners that run (bpftune tuners)"
    case .tunables: "what each tuner can change"
    case .jtunables: "the same as JSON (bpftune tuners --json)"
    case .status: "the values of tunables (bpftune tunables)"
    case .jstatus: "the same as JSON (bpftune tunables --json)"
    case .rollback: "what a roll back would restore (bpftune simulate)"
    }
  }

  func run() throws {
    switch self {
    case .help:
      var table = Table()
      for query in Self.allCases { table.add(Cell(query.rawValue), Cell(query.explanation)) }
      table.print()
    case .tuners: try TunersCommand.parse([]).run()
    case .jtunables: try TunersCommand.parse(["--json"]).run()
    case .status: try TunablesCommand.parse([]).run()
    case .jstatus: try TunablesCommand.parse(["--json"]).run()
    case .summary: try exiting { try Self.summarize() }
    case .tunables: try exiting { try Self.listTunables() }
    case .rollback: try exiting { try Self.showRollback() }
    }
  }

  private static func summarize() throws {
    let changed = try TunablesCommand.all(in: nil).filter { $0.owner == "bpftune" }
    guard !changed.isEmpty else { return print("nothing is changed") }
    var table = Table("TUNABLE", "NAMESPACE", "FROM", "TO", "CHANGES")
    for state in changed {
      table.add(
        Cell(state.tunable), Cell(state.namespace.title), Cell(state.original ?? ""),
        Cell(state.current ?? ""), Cell(state.changes))
    }
    table.print()
  }

  private static func listTunables() throws {
    let reply: Reply.Tuners = try Client().get("/v1/tuners")
    var table = Table("TUNER", "TUNABLE")
    for tuner in reply.tuners {
      for tunable in tuner.tunables { table.add(Cell(tuner.name), Cell(tunable)) }
    }
    table.print()
  }

  private static func showRollback() throws {
    let reply: Reply.Simulation = try Client().get("/v1/simulate")
    guard !reply.undone.isEmpty else { return print("nothing to roll back") }
    var table = Table("TUNABLE", "NAMESPACE", "NOW", "ORIGINAL")
    for step in reply.undone {
      table.add(
        Cell(step.tunable), Cell(step.namespace.title), Cell(step.from), Cell(step.to))
    }
    table.print()
  }
}
