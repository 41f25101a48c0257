import ArgumentParser
import FoundationEssentials
import Kernel
import Tuners

/// `bpftune check`: what this kernel allows. Attaches every hook for a moment
/// and changes nothing.
struct Check: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract:
      "Shows what this kernel allows: each signal, the hook it gets, and why better ones were refused.",
    discussion: "The daemon's options --allow, --cgroup and --hooks count here too.")

  @ParentCommand var daemon: Bpftune

  @Flag(name: .long, help: "Print JSON.")
  var json = false

  func run() throws { try Self.run(daemon.options, json: json) }

  static func run(_ options: Options, json: Bool) throws {
    try exiting {
      if let failure = missingPrivilege() { throw failure }
      let report = try describing {
        try Report(options)
      }
      if json { try report.printJSON() } else { report.printTable() }
      if !report.works { throw Failure(report.verdict, exit: .failure) }
    }
  }
}

/// What `check` finds out.
private struct Report: Encodable {
  struct Refusal: Encodable {
    let hook: String
    let reason: String
  }

  /// The daemon that runs.
  struct Running: Encodable {
    let pid: Int32
    let capabilities: [String]
    let noNewPrivileges: Bool
  }

  struct Line: Encodable {
    let owner: String
    let signal: String
    let hook: String?
    let refused: [Refusal]
  }

  let version = Bpftune.version
  let kernel: String
  let cgroup: String
  let namespaces: String
  let daemon: Running?
  /// What a daemon holds once it is ready.
  let capabilities = Privileges.kept.names
  let signals: [Line]
  /// Tuners from outside that are not loaded, and why.
  let refusedModules: [String]
  let verdict: String
  let works: Bool

  init(_ options: Options) throws {
    let root = try CgroupRoot(path: options.cgroup)
    let programs = try Programs(cgroup: root, families: options.hooks.families)
    let hooks = try Hooks(programs: programs, tuners: options.chosenTuners)
    let modules = try LookedAtModules(options, programs: programs)
    let lines = hooks.lines + modules.lines
    let missing = lines.filter(\.isMissing).count
    let degraded = lines.filter(\.isDegraded).count
    refusedModules = modules.refusals
    cgroup = root.path
    kernel = KernelVersion.release
    daemon = InstanceLock.holder().flatMap { pid in
      Privileges.held(by: pid).map { held in
        Running(
          pid: pid, capabilities: held.capabilities.names, noNewPrivileges: held.noNewPrivileges)
      }
    }
    let directory = try NamespaceDirectory(loop: KernelLoop())
    namespaces =
      directory.hasCookies
      ? "can be tuned, told apart by cookie" : "can be tuned, told apart by inode number only"
    signals = lines.map { line in
      Line(
        owner: line.owner, signal: line.report.signal.name, hook: line.report.hook?.name,
        refused: line.report.refusals.map { Refusal(hook: $0.hook, reason: $0.reason) })
    }
    works = missing == 0
    switch (missing, degraded) {
    case (0, 0) where !directory.hasCookies:
      verdict =
        "bpftune works on this kernel; namespaces are told apart by inode number only (no cookies before Linux 5.14)"
    case (0, 0): verdict = "bpftune works fully on this kernel"
    case (0, let degraded):
      verdict =
        "bpftune works on this kernel; not by the first choice of hook: \(degraded) of \(lines.count) signals"
    case (let missing, _):
      verdict =
        "bpftune works in part on this kernel; without a hook: \(missing) of \(lines.count) signals"
    }
  }

  func printJSON() throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    print(String(decoding: try encoder.encode(self), as: UTF8.self))
  }

  func printTable() {
    print("kernel      \(kernel)")
    print("cgroup v2   \(cgroup)")
    print("namespaces  \(namespaces)")
    if let daemon {
      let held = daemon.capabilities.isEmpty ? "none" : daemon.capabilities.joined(separator: ", ")
      let more = daemon.noNewPrivileges ? "" : ", and can get more"
      print("daemon      runs with pid \(daemon.pid), holds \(held)\(more)")
    } else {
      print("daemon      does not run; once ready it holds \(Privileges.kept) and no more")
    }
    print("")
    let rows =
      [("TUNER", "SIGNAL", "HOOK")] + signals.map { ($0.owner, $0.signal, $0.hook ?? "none") }
    let widths = [rows.map(\.0.count).max() ?? 0, rows.map(\.1.count).max() ?? 0]
    func pad(_ text: String, _ width: Int) -> String {
      text + String(repeating: " ", count: max(0, width - text.count))
    }
    for (index, row) in rows.enumerated() {
      print("\(pad(row.0, widths[0]))  \(pad(row.1, widths[1]))  \(row.2)")
      guard index > 0 else { continue }
      for refusal in signals[index - 1].refused {
        print("\(pad("", widths[0]))    refused: \(refusal.hook): \(refusal.reason)")
      }
    }
    if !refusedModules.isEmpty { print("") }
    for refusal in refusedModules { print("not loaded: \(refusal)") }
    print("\n\(verdict)")
  }
}
