import ArgumentParser
import Glibc
import Kernel
import Logging
import Tuners

/// The daemon's options.
struct Options: ParsableArguments {
  @Flag(name: .long, help: "Log to the terminal, readable.")
  var foreground = false

  @Flag(name: .long, help: "Log each event, decision and refusal.")
  var verbose = false

  @Flag(name: .long, help: "Observe and advise; change nothing.")
  var dryRun = false

  @Flag(name: [.customShort("R"), .long], help: "Put everything back on exit.")
  var rollback = false

  @Option(
    name: [.customShort("a"), .customLong("allow")],
    help: ArgumentHelp(
      "Run this tuner only; repeat it for more: \(TunerName.allowed).", valueName: "tuner"))
  var allow: [TunerName] = []

  @Option(
    name: .customLong("allow-risky"),
    help: ArgumentHelp(
      "Apply this too, though it can break something; repeat it for more: \(RiskName.allowed).",
      valueName: "name"))
  var allowRisky: [RiskName] = []

  @Option(
    name: .customLong("override-socket-buffers"),
    help: ArgumentHelp(
      "Ports, with commas between, whose TCP sockets may not fix their buffers with SO_SNDBUF and SO_RCVBUF.",
      valueName: "ports"))
  var overrideSocketBuffers = PortList.none

  @Option(
    name: [.customShort("r"), .customLong("learning-rate")],
    help: ArgumentHelp(
      "How far one step may go, 0 (cautious) to 4 (default).", valueName: "0...4"))
  var learningRate = LearningRate.standard

  @Option(
    name: [.customShort("c"), .customLong("cgroup")],
    help: ArgumentHelp(
      "The root of the cgroup v2 hierarchy, if not where it is mounted.", valueName: "dir"))
  var cgroup: String?

  @Option(
    name: .long,
    help: ArgumentHelp(
      "Serve metrics for Prometheus there, on loopback when only a port is given: 9273, 192.0.2.1:9273.",
      valueName: "address:port"))
  var metrics: MetricsAddress?

  @Option(
    name: .long, help: ArgumentHelp("Where to log: syslog, stderr or journal.", valueName: "where"))
  var log: LogDestination?

  @Option(
    name: .customLong("state-dir"),
    help: ArgumentHelp(
      "Where to keep what was changed and what happened.", valueName: "dir"))
  var stateDirectory = "/var/lib/bpftune"

  @Option(
    name: .customLong("hold-out"),
    help: ArgumentHelp(
      "Leave this share of the namespaces untouched, and compare.", valueName: "percent"))
  var holdOut = Percentage(share: 0)

  @Option(
    name: .long,
    help: ArgumentHelp(
      "For debugging: the families of hooks to use, with commas between: \(HookFamilies.allowed).",
      valueName: "families"))
  var hooks = HookFamilies.all

  @Option(
    name: [.customShort("l"), .customLong("libdir")],
    help: ArgumentHelp(
      "Look for tuners as shared objects there too.", valueName: "dir"))
  var libdir: String?

  /// Where tuners from outside are looked for.
  var moduleDirectories: [String] {
    let here = libdir.map { $0.hasPrefix("/") ? $0 : currentDirectory() + "/" + $0 }
    return [here].compactMap { $0 } + Self.standardDirectories
  }

  static let standardDirectories = ["/usr/lib/bpftune/tuners", "/usr/local/lib/bpftune/tuners"]

  /// Whether a tuner from outside may run.
  func allows(_ tuner: String) -> Bool {
    allow.isEmpty || allow.contains { $0.name == tuner }
  }

  /// Throws for a name that was allowed and that no tuner has.
  func validate() throws {
    let unknown = allow.filter { name in !tuners.contains { $0.name == name.name } }
    if unknown.isEmpty { return }
    var files: Set<String> = []
    for directory in moduleDirectories {
      guard let opened = try? ModuleFile.openDirectory(directory) else { continue }
      files.formUnion(ModuleFile.names(in: opened))
      try? opened.close()
    }
    for name in unknown where !files.contains(name.name + ".so") {
      throw ValidationError(
        "no tuner \"\(name.argument)\"; there are \(TunerName.allowed), and no \(name.name).so in"
          + " \(moduleDirectories.joined(separator: ", "))")
    }
  }

  var chosenTuners: [any Policy.Type] {
    allow.isEmpty ? tuners : tuners.filter { type in allow.contains { $0.name == type.name } }
  }

  func makeLogger() -> Logger {
    var logger = (log ?? .automatic(foreground: foreground)).makeLogger()
    logger.logLevel = verbose ? .debug : .info
    return logger
  }
}

/// A tuner's name on the command line: `tcp-buffer`, or as the C program's
/// users type it, `tcp_buffer_tuner.so`.
struct TunerName: ExpressibleByArgument, Decodable {
  let name: String
  /// As it was typed.
  let argument: String

  init?(argument: String) {
    self.argument = argument
    var name = argument.split(separator: "/").last.map(String.init) ?? argument
    for suffix in [".so", "_tuner", "-tuner"] where name.hasSuffix(suffix) {
      name.removeLast(suffix.count)
    }
    name = String(name.map { $0 == "_" ? "-" : $0 })
    // It may be one from outside: whether it is there is seen later.
    guard ModuleDescription.isName(name) else { return nil }
    self.name = name
  }

  static var allowed: String { tuners.map { $0.name }.joined(separator: ", ") }
  static var allValueStrings: [String] { tuners.map { $0.name } }
  var defaultValueDescription: String { name }
}

/// What can be allowed by name: `neigh.drop_gratuitous_arp`.
struct RiskName: ExpressibleByArgument, Decodable {
  let name: String

  private static var risks: [Risk] { tuners.flatMap { $0.risks } }

  init?(argument: String) {
    guard Self.risks.contains(where: { $0.name == argument }) else { return nil }
    name = argument
  }

  var risk: Risk? { Self.risks.first { $0.name == name } }

  static var allowed: String { allValueStrings.joined(separator: ", ") }
  static var allValueStrings: [String] { risks.map(\.name) }
  var defaultValueDescription: String { name }
}

extension LearningRate: ExpressibleByArgument {
  public init?(argument: String) {
    guard let level = Int(argument) else { return nil }
    self.init(level)
  }

  public static var allValueStrings: [String] { allowed.map(String.init) }
  public var defaultValueDescription: String { "\(level)" }
}

/// `10%` or `10`.
struct Percentage: ExpressibleByArgument {
  /// 0 to 1.
  let share: Double

  init(share: Double) { self.share = share }

  init?(argument: String) {
    let number = argument.hasSuffix("%") ? String(argument.dropLast()) : argument
    guard let percent = Double(number), (0...100).contains(percent) else { return nil }
    share = percent / 100
  }

  var defaultValueDescription: String { "0%" }
}

/// A choice of hook families: `tracepoint,sock_ops`.
struct HookFamilies: ExpressibleByArgument {
  let families: Set<Hook.Family>

  static let all = HookFamilies(families: Set(Hook.Family.allCases))
  static var allowed: String { Hook.Family.allCases.map(\.rawValue).joined(separator: ",") }

  private init(families: Set<Hook.Family>) { self.families = families }

  init?(argument: String) {
    var families: Set<Hook.Family> = []
    for word in argument.split(separator: ",") {
      guard let family = Hook.Family(rawValue: String(word)) else { return nil }
      families.insert(family)
    }
    self.families = families
  }

  var defaultValueDescription: String { "all" }
  static var allValueStrings: [String] { Hook.Family.allCases.map(\.rawValue) }
}

/// Ports: `80,443`.
struct PortList: ExpressibleByArgument, Decodable {
  let ports: [UInt16]

  static let none = PortList(ports: [])
  private init(ports: [UInt16]) { self.ports = ports }

  init?(argument: String) {
    let words = argument.split(separator: ",", omittingEmptySubsequences: false)
    let ports = words.compactMap { UInt16($0) }.filter { $0 > 0 }
    guard ports.count == words.count, ports.count <= Programs.mostOverridePorts else { return nil }
    self.ports = ports
  }

  var defaultValueDescription: String { "none" }
}

/// The C program's other options, under the names that its users type.
struct CompatibilityOptions: ParsableArguments {
  @Flag(name: [.customShort("s"), .customLong("stderr")], help: "Same as --log stderr.")
  var stderr = false

  @Flag(name: [.customShort("d"), .customLong("debug")], help: "Same as --verbose.")
  var debug = false

  @Flag(name: [.customShort("D"), .customLong("daemon")], help: "Go into the background.")
  var daemon = false

  @Flag(name: [.customShort("S"), .customLong("support")], help: "Same as the subcommand check.")
  var support = false

  @Flag(name: .customShort("V"), help: "Same as --version.")
  var printVersion = false

  @Option(name: .customLong("learning_rate"), help: .hidden)
  var learningRate: LearningRate?

  @Flag(name: [.customShort("L"), .customLong("legacy")], help: .hidden)
  var legacy = false

  @Option(
    name: [.customShort("q"), .customLong("query")],
    help: ArgumentHelp(
      "Ask the daemon that runs: \(Query.allValueStrings.joined(separator: ", ")).",
      valueName: "query"))
  var query: Query?

  @Option(name: [.customShort("p"), .customLong("port")], help: .hidden)
  var port: String?

  @Flag(
    name: .customLong("print-libdir"), help: "Print the first directory of tuners, and exit.")
  var printLibdir = false

  func validate() throws {
    if legacy {
      throw ValidationError(
        "--legacy is not needed: each signal takes the best hook the kernel has (see bpftune check)"
      )
    }
    if port != nil {
      throw ValidationError(
        "--port is not needed: queries go over \(ControlSocket.path); metrics have --metrics")
    }
  }

  func apply(to options: inout Options) {
    if stderr { options.log = .stderr }
    if debug { options.verbose = true }
    if let learningRate { options.learningRate = learningRate }
  }
}

private func currentDirectory() -> String {
  withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4096) { buffer in
    getcwd(buffer.baseAddress, buffer.count).map { String(cString: $0) } ?? ""
  }
}
