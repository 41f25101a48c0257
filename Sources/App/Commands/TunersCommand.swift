import ArgumentParser

/// `bpftune tuners`
struct TunersCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tuners",
    abstract: "Shows the tuners that run: what each has done, and where it is disabled and why.")

  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let reply: Reply.Tuners = try Client().get("/v1/tuners")
      try output.show(reply) {
        Self.table(of: reply.tuners).print()
        for tuner in reply.tuners where tuner.state != "enabled" {
          print()
          if let trouble = tuner.trouble {
            show(Cell(tuner.name, .bold), " is disabled: ", Cell(trouble))
          }
          for place in tuner.disabled {
            show(
              Cell(tuner.name, .bold), " is disabled in ", Cell(place.namespace.title), ": ",
              Cell(place.why))
          }
          if tuner.disabledCount > tuner.disabled.count {
            print("and in \(tuner.disabledCount - tuner.disabled.count) more namespaces")
          }
          print("bpftune enable \(tuner.name) lets it tune again")
        }
      }
    }
  }

  static func table(of tuners: [Reply.Tuner]) -> Table {
    var table = Table(
      "TUNER", "STATE", "CHANGES", "KEPT", "WORSE", "ADVICE", "REFUSALS", "EVENTS", "FOLDED",
      "RATE AFTER")
    for tuner in tuners {
      let style: Cell.Style = tuner.state == "enabled" ? .good : .attention
      table.add(
        Cell(tuner.name), Cell(tuner.state, style), Cell(tuner.changes),
        Cell(tuner.kept), Cell(tuner.worse, tuner.worse > 0 ? .attention : .plain),
        Cell(tuner.advice), Cell(tuner.refusals), Cell(tuner.events), Cell(tuner.folded),
        Cell(gain(of: tuner)))
    }
    return table
  }
}

/// What changes brought: `3.2 times`, and the same without them where some
/// namespaces are held out.
private func gain(of tuner: Reply.Tuner) -> String {
  func times(_ gain: Double) -> String { "\(Double(Int(min(gain, 1e6) * 10)) / 10) times" }
  guard let gain = tuner.gain else { return "" }
  return times(gain) + (tuner.gainHeldOut.map { ", held out \(times($0))" } ?? "")
}

/// `bpftune enable` and `bpftune disable` do the same but for the last word.
private func switchTuner(
  _ verb: String, _ tuner: TunerName, _ netns: String?, _ output: Output
) throws {
  try exiting {
    let reply: Reply.Switched = try Client().post(
      "/v1/tuners/\(tuner.name)/\(verb)", ["netns": netns])
    try output.show(reply) {
      let place = reply.namespace.map { "in \($0.title)" } ?? "everywhere"
      print(
        reply.changed == 0
          ? "\(reply.tuner) was \(verb)d \(place) already"
          : "\(reply.tuner) is \(verb)d \(place)")
    }
  }
}

struct EnableCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "enable",
    abstract: "Lets a tuner tune again, also where an administrator's write has disabled it.")

  @Argument(help: ArgumentHelp("One of \(TunerName.allowed), or one from outside.")) var tuner:
    TunerName
  @OptionGroup var place: NamespaceOption
  @OptionGroup var output: Output

  func run() throws { try switchTuner("enable", tuner, place.netns, output) }
}

struct DisableCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "disable",
    abstract: "Stops a tuner; what it changed stays until it is rolled back.",
    discussion: "It holds until \"bpftune enable\", or until the daemon is restarted.")

  @Argument(help: ArgumentHelp("One of \(TunerName.allowed), or one from outside.")) var tuner:
    TunerName
  @OptionGroup var place: NamespaceOption
  @OptionGroup var output: Output

  func run() throws { try switchTuner("disable", tuner, place.netns, output) }
}
