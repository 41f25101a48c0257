import ArgumentParser

/// `bpftune recommend`
struct RecommendCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "recommend",
    abstract: "Writes what was found so far as a file for other machines; from dry run too.")

  enum Format: String, ExpressibleByArgument, CaseIterable {
    case sysctl = "sysctl.d"
    case ansible
  }

  @Option(
    name: .long, help: ArgumentHelp("sysctl.d or ansible.", valueName: "format"))
  var format = Format.sysctl
  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let reply: Reply.Recommendations = try Client().get("/v1/recommend")
      try output.show(reply) {
        let file = Recommendation(reply)
        print(format == .sysctl ? file.sysctl : file.ansible)
      }
    }
  }
}

/// Findings as a file of configuration.
struct Recommendation {
  private let reply: Reply.Recommendations
  private static let file = "60-bpftune.conf"

  init(_ reply: Reply.Recommendations) { self.reply = reply }

  private var head: [String] {
    [
      "# Found by bpftune \(Bpftune.version) on \(Self.plain(reply.host)) with Linux"
        + " \(Self.plain(reply.kernel)), \(reply.time).",
      "# What was found on one machine fits others of its kind and load.",
    ]
  }

  /// Of the host. Such a file reaches no other namespace.
  private var findings: [Reply.Finding] { reply.findings.filter { $0.namespace.name == "init" } }

  private var others: [String] {
    let others = reply.findings.filter { $0.namespace.name != "init" }
    guard !others.isEmpty else { return [] }
    return ["", "# In other network namespaces, which this file does not reach:"]
      + others.map { "#   \(Self.plain($0.namespace.title)): \($0.tunable) = \($0.value)" }
  }

  private var nothing: [String] {
    findings.isEmpty ? ["", "# Nothing was found yet that the host needs."] : []
  }

  /// For /etc/sysctl.d (sysctl.d(5)).
  var sysctl: String {
    var lines = head + ["# For /etc/sysctl.d/\(Self.file); \"sysctl --system\" applies it."] + nothing
    for finding in findings {
      lines += ["", "# \(why(finding))", "\(finding.tunable) = \(finding.value)"]
    }
    return (lines + others).joined(separator: "\n")
  }

  /// Tasks for a playbook.
  var ansible: String {
    var lines = head + ["# Tasks for a role; they need the collection ansible.posix."] + nothing
    if findings.isEmpty { lines.append("[]") }
    for finding in findings {
      lines += [
        "",
        "# \(why(finding))",
        "- name: Set \(finding.tunable)",
        "  ansible.posix.sysctl:",
        "    name: \"\(finding.tunable)\"",
        "    value: \"\(finding.value)\"",
        "    sysctl_file: /etc/sysctl.d/\(Self.file)",
        "    state: present",
      ]
    }
    return (lines + others).joined(separator: "\n")
  }

  private func why(_ finding: Reply.Finding) -> String {
    let done = finding.kind == "applied" ? "Set by bpftune" : "Advised by bpftune"
    return "\(done), before \(finding.original): \(Self.plain(finding.reason))"
  }

  /// Without anything that would begin a new line.
  private static func plain(_ text: String) -> String { Cell(text).text }
}
