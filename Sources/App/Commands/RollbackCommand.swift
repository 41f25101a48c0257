import ArgumentParser

/// `bpftune rollback`
struct RollbackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rollback",
    abstract: "Puts back what the daemon has changed: all of it, or the tunables named.",
    discussion:
      "A tuner may change them again when it finds the same need; disable it first if it should not."
  )

  @Argument(help: "Tunables, as sysctl(8) writes them.")
  var names: [String] = []
  @OptionGroup var place: NamespaceOption
  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let reply: Reply.RolledBack = try Client().post(
        "/v1/rollback",
        ["tunable": names.isEmpty ? nil : names.joined(separator: ","), "netns": place.netns])
      try output.show(reply) {
        steps(reply.restored).print()
        if reply.restored.isEmpty, reply.left.isEmpty { print("nothing to put back") }
        guard !reply.left.isEmpty else { return }
        print("\nleft as they are:")
        steps(reply.left).print()
      }
      if !reply.left.isEmpty { throw ExitCode.failure }
    }
  }
}

/// `bpftune simulate`
struct SimulateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulate",
    abstract: "Shows what \"rollback\" would undo, and what was advised and is not applied.")

  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let reply: Reply.Simulation = try Client().get("/v1/simulate")
      try output.show(reply) {
        print(reply.undone.isEmpty ? "rollback would undo nothing" : "rollback would undo:")
        steps(reply.undone).print()
        print(
          reply.applied.isEmpty
            ? "\nnothing is advised that is not applied" : "\nadvised, and not applied:")
        steps(reply.applied).print()
      }
    }
  }
}

/// Steps as a table; without a head when there are none.
func steps(_ steps: [Reply.Step]) -> Table {
  var table = Table()
  for step in steps {
    table.add(
      Cell("  " + step.tunable), Cell(step.namespace.title), Cell("\(step.from) -> \(step.to)"),
      Cell(step.why))
  }
  return table
}
