import ArgumentParser
import Tuners

/// `bpftune rollback`
struct RollbackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rollback",
    abstract: "Puts back what the daemon has changed: all of it, or the tunables named.",
    discussion:
      "A tuner may change them again when it finds the same need; disable it first if it should not. Without a daemon it puts back what the last one has left."
  )

  @Argument(help: "Tunables, as sysctl(8) writes them, or the last part of the name.")
  var names: [String] = []
  @OptionGroup var place: NamespaceOption
  @OptionGroup var output: Output

  @Option(
    name: .customLong("state-dir"),
    help: ArgumentHelp("Where a daemon that has ended kept its state.", valueName: "dir"))
  var givenStateDirectory: String?

  /// The daemon has an option of that name, which takes the value wherever it stands.
  @ParentCommand var daemon: Bpftune
  private var stateDirectory: String { givenStateDirectory ?? daemon.options.stateDirectory }

  /// Without a daemon: what the last one left behind.
  private func afterTheDaemon() throws -> Reply.RolledBack {
    if let failure = missingPrivilege() { throw failure }
    guard place.netns == nil else { throw Client.noDaemon }
    let lock = try InstanceLock()
    let lines = try describing {
      try Recovery.putBack(
        stateDirectory: stateDirectory, names: Set(names), notice: { printError("bpftune: \($0)") })
    }
    _ = consume lock
    if let unknown = names.first(where: { name in
      !lines.contains { $0.holding.tunable.isCalled(name) }
    }) {
      throw Failure(
        "no daemon runs, and the last one left no \(unknown) changed (\(stateDirectory))",
        exit: .failure)
    }
    return Reply.RolledBack(
      restored: lines.filter { $0.result == .putBack }.map { $0.step },
      left: lines.filter { $0.result != .putBack && $0.result != .gone }.map { $0.step })
  }

  func run() throws {
    try exiting {
      let reply: Reply.RolledBack
      do {
        reply = try Client().post(
          "/v1/rollback",
          ["tunable": names.isEmpty ? nil : names.joined(separator: ","), "netns": place.netns])
      } catch let failure as Failure where failure.code == Client.noDaemon.code {
        reply = try afterTheDaemon()
      }
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

extension Recovery.Line {
  fileprivate var step: Reply.Step {
    let why =
      switch result {
      case .putBack: "rolled back"
      case .unchanged: "it is so already"
      case .leftAt(let value): "someone else has set it to \(value)"
      case .gone: "the namespace is gone"
      case .failed(let why): why
      }
    return Reply.Step(
      tunable: holding.tunable.name,
      namespace: Reply.Namespace(
        inode: holding.namespace.inode, cookie: holding.namespace.cookie,
        name: holding.namespaceName),
      from: "\(holding.written)", to: "\(holding.original)", why: why)
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
