import ArgumentParser
import FoundationEssentials

/// What commands that ask the daemon have in common.
struct Output: ParsableArguments {
  @Flag(name: .long, help: "Print JSON (bpftune-control(5)).")
  var json = false

  /// The reply as JSON, or what `text` prints.
  func show(_ reply: some Encodable, _ text: () -> Void) throws {
    guard json else { return text() }
    print(String(decoding: try JSON.encoder(pretty: true).encode(reply), as: UTF8.self))
  }
}

/// Which namespace a command is about.
struct NamespaceOption: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "This network namespace only: its name, its inode number, or init for the host's.",
      valueName: "namespace"))
  var netns: String?
}

extension Reply.Namespace {
  /// `web`, or `netns 4026532281` without a name.
  var title: String { name.isEmpty ? "netns \(inode)" : name }
}

extension Reply.Record {
  /// In local time.
  var clock: String { Moment(iso: time)?.clock ?? time }
  var date: String { Moment(iso: time)?.local ?? time }

  private var style: Cell.Style {
    switch kind {
    case "change": .good
    case "administrator", "withdrawal": .attention
    case "refusal": .faint
    default: .plain
    }
  }

  private var change: String {
    new.isEmpty ? "" : old.isEmpty ? new : "\(old) -> \(new)"
  }

  private var evidence: String {
    var words = [reason, outcome, effect].filter { !$0.isEmpty }
    if repeats > 0 { words.append("and \(repeats) like it before") }
    return words.joined(separator: "; ")
  }

  /// Its columns, but for the time.
  var cells: [Cell] {
    [
      Cell(kind, style), Cell(tunable.isEmpty ? tuner : tunable), Cell(change),
      Cell(namespace.title), Cell(evidence),
    ]
  }

  /// For a stream of lines.
  var line: String {
    let words = cells.filter { !$0.text.isEmpty }.map(\.rendered)
    return "\(clock) \(words[0]): \(words.dropFirst().joined(separator: "  "))"
  }
}
