import ArgumentParser
import CShims
import FoundationEssentials
import Glibc

/// `bpftune watch`
struct WatchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract: "Shows what the daemon does while it does it; a line each when not on a terminal.",
    discussion: "On a terminal it ends with q or Ctrl-C.")

  @OptionGroup var output: Output

  func run() throws {
    try exiting {
      let stream = try Client().stream("/v1/watch")
      if Terminal.isOutput, !output.json {
        try LiveView(stream).run()
      } else {
        try follow(stream)
      }
      throw Failure("the daemon has ended", exit: .failure)
    }
  }

  private func follow(_ stream: Client.Stream) throws {
    while let line = try stream.line() {
      if output.json {
        print(line)
      } else if let record = Reply.Record(json: line) {
        print(record.line)
      }
      // Whoever reads wants each line when it comes.
      fflush(nil)
    }
  }
}

extension Reply.Record {
  /// A line of `/v1/watch`; nil for the first, which says the schema.
  fileprivate init?(json: String) {
    guard let record = try? JSON.decoder().decode(Self.self, from: Data(json.utf8)) else {
      return nil
    }
    self = record
  }
}

/// The whole terminal, drawn again when something happens and every two seconds.
private final class LiveView {
  private let stream: Client.Stream
  private var records: [Reply.Record] = []
  private var saved = termios()
  private let hasKeys: Bool
  private static let interval: Int32 = 2000
  private static let mostRecords = 200

  init(_ stream: Client.Stream) throws {
    self.stream = stream
    hasKeys = isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &saved) == 0
  }

  func run() throws {
    let signals = bpftune_signal_fd()
    guard signals >= 0 else { throw Failure("cannot take signals: \(errorText())", exit: .failure) }
    if hasKeys {
      var keys = saved
      keys.c_lflag &= ~tcflag_t(ICANON | ECHO)
      tcsetattr(STDIN_FILENO, TCSANOW, &keys)
    }
    write("\u{1b}[?1049h\u{1b}[?25l")
    defer {
      write("\u{1b}[?25h\u{1b}[?1049l")
      if hasKeys { tcsetattr(STDIN_FILENO, TCSANOW, &saved) }
      close(signals)
    }
    let first: Reply.Status = try Client().get("/v1/status")
    records = first.recent
    draw(first)
    var inputs = [stream.descriptor, signals, hasKeys ? STDIN_FILENO : -1].map {
      pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
    }
    while true {
      let count = poll(&inputs, nfds_t(inputs.count), Self.interval)
      if count < 0, errno != EINTR {
        throw Failure("cannot wait: \(errorText())", exit: .failure)
      }
      if count > 0 {
        if inputs[1].revents != 0 || inputs[2].revents != 0 && wantsToEnd() {
          throw ExitCode.success
        }
        if inputs[0].revents != 0 {
          // What comes together is drawn together.
          usleep(100_000)
          guard try stream.more() else { return }
          take()
        }
      }
      draw(try Client().get("/v1/status"))
    }
  }

  private func wantsToEnd() -> Bool {
    var key: UInt8 = 0
    let count = read(STDIN_FILENO, &key, 1)
    return count <= 0 || key == UInt8(ascii: "q") || key == 3 || key == 4
  }

  private func take() {
    while let line = stream.lineThatIsThere() {
      if let record = Reply.Record(json: line) { records.append(record) }
    }
    if records.count > Self.mostRecords { records.removeFirst(records.count - Self.mostRecords) }
  }

  private func draw(_ status: Reply.Status) {
    let (columns, rows) = Terminal.size
    var lines = StatusCommand.lines(of: status, withRecent: false)
    lines += ["", Cell("q ends", .faint).rendered, ""]
    let room = max(1, rows - lines.count - 1)
    lines += StatusCommand.recent(records.suffix(room - 1))
    let screen = lines.prefix(rows - 1).map { Self.cut($0, to: columns) }
    write("\u{1b}[H" + screen.joined(separator: "\u{1b}[K\n") + "\u{1b}[K\u{1b}[J")
  }

  /// No longer than the terminal is wide; escape sequences take no room.
  private static func cut(_ line: String, to columns: Int) -> String {
    var result = ""
    var width = 0
    var inEscape = false
    for character in line {
      if character == "\u{1b}" { inEscape = true }
      if inEscape {
        result.append(character)
        if character == "m" { inEscape = false }
        continue
      }
      width += 1
      if width > columns { break }
      result.append(character)
    }
    return width > columns ? result + "\u{1b}[0m" : result
  }

  private func write(_ text: String) {
    var text = text
    text.withUTF8 { _ = Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
  }
}
