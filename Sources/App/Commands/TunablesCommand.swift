import ArgumentParser

/// `bpftune tunables`
struct TunablesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tunables",
    abstract: "Shows each tunable: its value now, its original, and whose value it is.",
    discussion:
      "Without --netns: all of the host's, and those of other namespaces that the daemon or an administrator has set."
  )

  @OptionGroup var place: NamespaceOption
  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let all = try Self.all(in: place.netns)
      try output.show(Reply.Tunables(tunables: all, next: nil)) { Self.table(of: all).print() }
    }
  }

  static func all(in netns: String?) throws -> [Reply.TunableState] {
    var all: [Reply.TunableState] = []
    var next: String?
    repeat {
      let page: Reply.Tunables = try Client().get(
        "/v1/tunables", ["netns": netns, "after": next])
      all += page.tunables
      next = page.next
    } while next != nil
    return all
  }

  static func table(of tunables: [Reply.TunableState]) -> Table {
    var table = Table("TUNABLE", "NAMESPACE", "CURRENT", "ORIGINAL", "OWNER", "TUNER")
    for state in tunables {
      let style: Cell.Style =
        switch state.owner {
        case "bpftune": .good
        case "administrator": .attention
        default: .plain
        }
      table.add(
        Cell(state.tunable), Cell(state.namespace.title), Cell(state.current ?? "not here"),
        Cell(state.original ?? ""), Cell(state.owner, style),
        Cell(state.tuners.joined(separator: ", ")))
    }
    return table
  }
}

/// `bpftune verify`
struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Reads back all that the daemon has set: does the kernel still hold it?",
    discussion: "The exit status is 0 when it does, and 1 when something differs.")

  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let reply: Reply.Verification = try Client().get("/v1/verify")
      try output.show(reply) {
        var table = Table("TUNABLE", "NAMESPACE", "SET TO", "HOLDS", "WHY")
        for difference in reply.differences {
          table.add(
            Cell(difference.tunable), Cell(difference.namespace.title), Cell(difference.expected),
            Cell(difference.found ?? "", .bad), Cell(difference.problem))
        }
        if !table.isEmpty { table.print() }
        print(
          reply.holds
            ? "all \(reply.checked) tunables that bpftune has set hold their value"
            : "\(reply.differences.count) of \(reply.checked) differ from what bpftune has set")
      }
      if !reply.holds { throw ExitCode.failure }
    }
  }
}
