import ArgumentParser

/// `bpftune status`
struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status",
    abstract: "Shows how the daemon stands: hooks, tuners, namespaces, recent changes, losses.")

  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let status: Reply.Status = try Client().get("/v1/status")
      try output.show(status) { Self.lines(of: status).forEach { print($0) } }
    }
  }

  /// As lines; also what `watch` shows.
  static func lines(of status: Reply.Status, withRecent: Bool = true) -> [String] {
    var facts = Table()
    let isTuning = status.mode == "tuning"
    facts.add(
      Cell("bpftune \(status.version)", .bold),
      Cell(
        "\(isTuning ? "tuning" : "dry run: advising, changing nothing") for"
          + " \(duration(status.uptimeSeconds)), pid \(status.pid), Linux \(status.kernel)"))
    let hooks = status.hooks
    let hookWords =
      "\(hooks.signals) signals"
      + (hooks.missing > 0 ? ", \(hooks.missing) without a hook" : "")
      + (hooks.degraded > 0 ? ", \(hooks.degraded) not by the first choice of hook" : "")
      + (hooks.missing + hooks.degraded > 0 ? " (bpftune check says why)" : "")
    facts.add("hooks", Cell(hookWords, hooks.missing > 0 ? .attention : .plain))
    facts.add(
      "namespaces",
      Cell(
        "\(status.namespaces)"
          + (status.holdOut > 0 ? ", \(Int(status.holdOut * 100)) % held out" : "")))
    let events = status.events
    let lost = events.lostRingFull + events.lostStreamFull
    facts.add(
      "events",
      Cell(
        "\(events.received), \(events.folded) repeats folded, \(lost) lost"
          + (events.malformed > 0 ? ", \(events.malformed) malformed" : ""),
        lost > 0 ? .attention : .plain))
    facts.add(
      "memory",
      Cell(
        "\(megabytes(status.memory.anonymousBytes)) of its own,"
          + " \(megabytes(status.memory.residentBytes)) resident"))
    facts.add("state", Cell(status.state))
    return facts.lines + [""] + TunersCommand.table(of: status.tuners).lines
      + (withRecent ? [""] + recent(status.recent) : [])
  }

  static func recent(_ records: [Reply.Record]) -> [String] {
    guard !records.isEmpty else { return ["nothing has been changed or advised yet"] }
    return [Cell("recent", .bold).rendered] + records.map { "\($0.line)" }
  }

  /// `3 d 4 h`, `12 min`, `40 s`.
  static func duration(_ seconds: Int64) -> String {
    switch seconds {
    case 86400...: "\(seconds / 86400) d \(seconds % 86400 / 3600) h"
    case 3600...: "\(seconds / 3600) h \(seconds % 3600 / 60) min"
    case 60...: "\(seconds / 60) min"
    default: "\(seconds) s"
    }
  }

  private static func megabytes(_ bytes: Int64) -> String {
    "\(bytes / 1_000_000).\(bytes % 1_000_000 / 100_000) MB"
  }
}
