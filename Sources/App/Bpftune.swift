import ArgumentParser
import CShims
import Glibc
import Kernel
import Tuners

/// The `bpftune` command. Without a subcommand it is the daemon.
@main
struct Bpftune: ParsableCommand {
  static let version = "0.1.0"

  static let configuration = CommandConfiguration(
    commandName: "bpftune",
    abstract:
      "Tunes Linux by what the kernel says: watches through BPF, raises the limits that hold the system back, and leaves alone what an administrator sets.",
    discussion: "Without a subcommand it runs as the daemon until SIGTERM or SIGINT.",
    version: version,
    groupedSubcommands: [
      CommandGroup(
        name: "Seeing",
        subcommands: [
          StatusCommand.self, TunersCommand.self, TunablesCommand.self, HistoryCommand.self,
          ExplainCommand.self, WatchCommand.self, VerifyCommand.self, SimulateCommand.self,
          RecommendCommand.self, Paths.self, Check.self,
        ]),
      CommandGroup(
        name: "Acting",
        subcommands: [RollbackCommand.self, EnableCommand.self, DisableCommand.self]),
    ])

  @OptionGroup var options: Options
  @OptionGroup var compatibility: CompatibilityOptions

  func validate() throws { try compatibility.validate() }

  mutating func run() throws {
    compatibility.apply(to: &options)
    if compatibility.printVersion { return print(Self.version) }
    if compatibility.printLibdir { return print(options.moduleDirectories[0]) }
    if let query = compatibility.query { return try query.run() }
    if compatibility.support {
      return try Check.run(options, json: false)
    }
    if compatibility.daemon, bpftune_daemonize() != 0 {
      throw Failure("cannot go into the background: \(errorText())", exit: .failure)
    }
    try runDaemon(options, log: options.makeLogger())
  }
}

/// A failure that ends the command: one line, and an exit status.
struct Failure: Error, CustomStringConvertible {
  let description: String
  let code: ExitCode

  init(_ description: String, exit code: ExitCode) {
    self.description = description
    self.code = code
  }

  /// EX_NOPERM of sysexits.h.
  static let noPermission = ExitCode(77)
}

/// Writes a line to standard error, in one write.
func printError(_ line: String) {
  var text = line + "\n"
  text.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

func errorText() -> String { String(cString: strerror(errno)) }

/// Prints the line to standard error and gives the exit status to the parser.
func exiting<R>(_ body: () throws -> R) throws -> R {
  do {
    return try body()
  } catch let failure as Failure {
    printError("bpftune: \(failure)")
    throw failure.code
  }
}

/// Why the process may not do what the daemon does, in one line; nil if it may.
func missingPrivilege() -> Failure? {
  let missing = Privileges.missing()
  guard !missing.isEmpty else { return nil }
  return Failure(
    "needs root: \(missing.names.joined(separator: " and ")) missing (run it with sudo or as a service)",
    exit: Failure.noPermission)
}
