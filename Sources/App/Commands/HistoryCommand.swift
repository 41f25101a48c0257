import ArgumentParser

/// `bpftune history`
struct HistoryCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "history",
    abstract: "Shows what was changed, advised, refused, rolled back, or written by others.")

  @Option(
    name: .long,
    help: ArgumentHelp(
      "From then on: 90s, 15m, 2h or 3d ago, or a date such as 2026-11-22 or 2026-11-22T21:44.",
      valueName: "when"))
  var since: String?

  @Option(name: .long, help: "Of this tuner only.")
  var tuner: String?

  @Option(name: .long, help: "Of this tunable only, as sysctl(8) writes it.")
  var tunable: String?

  @OptionGroup var place: NamespaceOption

  @Option(
    name: .long,
    help: ArgumentHelp("The newest of them only; 0 for all.", valueName: "count"))
  var limit = 100

  @OptionGroup var output: Output

  func validate() throws {
    if let since, Moment(since: since) == nil {
      throw ValidationError(
        "--since takes 90s, 15m, 2h or 3d, or a date such as 2026-11-22T21:44; not \"\(since)\"")
    }
    if limit < 0 { throw ValidationError("--limit takes 0 or more") }
  }

  func run() throws {
    try exiting {
      let records = try Self.records(
        limit: limit == 0 ? .max : limit,
        [
          "since": since.flatMap { Moment(since: $0)?.iso }, "tuner": tuner, "tunable": tunable,
          "netns": place.netns,
        ])
      try output.show(Reply.History(records: records, next: nil)) {
        guard !records.isEmpty else { return print("nothing is recorded that fits") }
        var table = Table("TIME", "WHAT", "TUNABLE", "VALUE", "NAMESPACE", "WHY")
        for record in records.reversed() { table.add([Cell(record.date)] + record.cells) }
        table.print()
      }
    }
  }

  /// The newest first, a page after the other.
  static func records(limit: Int, _ query: [String: String?]) throws -> [Reply.Record] {
    var all: [Reply.Record] = []
    var query = query
    while all.count < limit {
      query["limit"] = "\(min(limit - all.count, Limits.rows))"
      let page: Reply.History = try Client().get("/v1/history", query)
      all += page.records
      guard let next = page.next else { break }
      query["before"] = next
    }
    return all
  }
}

/// `bpftune explain`
struct ExplainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explain",
    abstract: "Says why a tunable has its value: the whole story, and how to undo it.")

  @Argument(help: ArgumentHelp("As sysctl(8) writes it, or its last part: tcp_rmem."))
  var name: String
  @OptionGroup var place: NamespaceOption
  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let reply: Reply.Explanation = try Client().get(
        "/v1/explain", ["tunable": name, "netns": place.netns])
      try output.show(reply) {
        for (index, place) in reply.places.enumerated() {
          if index > 0 { print() }
          Self.show(place)
        }
      }
    }
  }

  private static func show(_ place: Reply.Explanation.Place) {
    let state = place.state
    App.show(
      Cell(state.tunable, .bold), " in ", Cell(state.namespace.title), " is ",
      Cell(state.current ?? "not there", .bold))
    App.show(Cell(place.why))
    if !place.records.isEmpty {
      print("\nThe story, the oldest first:")
      for record in place.records {
        App.show("  ", Cell(record.date), "  ", Cell(record.storyLine))
        if !record.effect.isEmpty { App.show("      brought: ", Cell(record.effect)) }
      }
    }
    if !place.undo.isEmpty {
      print("\nTo undo it:")
      for command in place.undo { App.show("  ", Cell(command)) }
    }
  }
}

extension Reply.Record {
  fileprivate var storyLine: String {
    var words = "\(kind)"
    if !tuner.isEmpty, kind != "administrator" { words += " by \(tuner)" }
    if !new.isEmpty { words += ": \(old) -> \(new)" }
    if !scenario.isEmpty { words += " (\(scenario))" }
    for text in [reason, outcome] where !text.isEmpty { words += "; \(text)" }
    if repeats > 0 { words += "; and \(repeats) like it before" }
    if let verdict { words += "; \(verdict)" }
    return words
  }
}
