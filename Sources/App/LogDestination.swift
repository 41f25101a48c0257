import ArgumentParser
import CShims
import Glibc
import Logging

/// Where the log goes.
enum LogDestination: String, ExpressibleByArgument, CaseIterable {
  case syslog
  /// Standard error, for people.
  case stderr
  /// journald's socket, with fields; where there is none, standard error with a
  /// priority in front, as journald reads it.
  case journal

  /// `foreground` asks for a readable log. Otherwise the journal, when standard
  /// error leads there; a terminal; and syslog when there is neither.
  static func automatic(foreground: Bool) -> LogDestination {
    if foreground { return .stderr }
    if leadsToJournal { return .journal }
    return isatty(STDERR_FILENO) == 1 ? .stderr : .syslog
  }

  /// JOURNAL_STREAM has the device and inode of the stream that systemd gave
  /// the service (systemd.exec(5)); it may have been redirected since.
  private static var leadsToJournal: Bool {
    guard let text = getenv("JOURNAL_STREAM").map({ String(cString: $0) }) else { return false }
    var status = stat()
    guard fstat(STDERR_FILENO, &status) == 0 else { return false }
    return text == "\(status.st_dev):\(status.st_ino)"
  }

  func makeLogger() -> Logger {
    if self == .syslog { bpftune_syslog_open("bpftune") }
    let socket = self == .journal ? JournalSocket() : nil
    return Logger(label: "bpftune") { _ in Handler(destination: self, socket: socket) }
  }

  private struct Handler: LogHandler {
    let destination: LogDestination
    let socket: JournalSocket?
    var metadata: Logger.Metadata = [:]
    var logLevel: Logger.Level = .info

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
      let text = "\(event.message)"
      switch destination {
      case .syslog: bpftune_syslog(Self.priority(event.level), text)
      case .journal:
        let priority = Self.priority(event.level)
        let fields = (event.metadata ?? [:]).map { ($0.key, "\($0.value)") }
        let entry = [
          ("MESSAGE", text), ("PRIORITY", "\(priority)"), ("SYSLOG_IDENTIFIER", "bpftune"),
        ]
        if socket?.send(entry + fields.sorted { $0.0 < $1.0 }) != true {
          printError("<\(priority)>\(text)")
        }
      case .stderr:
        let level = event.level >= .warning ? "\(event.level): " : ""
        printError("\(Self.clock()) \(level)\(text)")
      }
    }

    /// The priorities of syslog(3).
    private static func priority(_ level: Logger.Level) -> Int32 {
      switch level {
      case .trace, .debug: 7
      case .info: 6
      case .notice: 5
      case .warning: 4
      case .error: 3
      case .critical: 2
      }
    }

    /// Local time with milliseconds: `14:03:07.250`.
    private static func clock() -> String {
      var now = timespec()
      clock_gettime(CLOCK_REALTIME, &now)
      var parts = tm()
      localtime_r(&now.tv_sec, &parts)
      func pad(_ number: Int, _ width: Int) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
      }
      return "\(pad(Int(parts.tm_hour), 2)):\(pad(Int(parts.tm_min), 2)):"
        + "\(pad(Int(parts.tm_sec), 2)).\(pad(now.tv_nsec / 1_000_000, 3))"
    }
  }
}
