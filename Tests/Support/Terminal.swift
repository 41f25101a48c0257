import CShims
import Foundation
import Synchronization

/// A program on a terminal of its own, as a person would run it.
public final class Terminal: Sendable {
  private let master: Int32
  private let process: Process
  private let seen = Mutex(Data())
  private let ended = DispatchSemaphore(value: 0)

  /// Starts it on a terminal of 100 columns and 30 rows.
  public init(_ arguments: [String], environment: [String: String] = [:]) throws {
    var master: Int32 = -1
    var slave: Int32 = -1
    var size = winsize(ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0)
    guard openpty(&master, &slave, nil, nil, &size) == 0 else {
      throw Command.Failure("no terminal: \(String(cString: strerror(errno)))")
    }
    self.master = master
    process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = arguments
    var all = ProcessInfo.processInfo.environment
    all["TERM"] = "xterm-256color"
    all["NO_COLOR"] = nil
    process.environment = all.merging(environment) { $1 }
    let handle = FileHandle(fileDescriptor: slave, closeOnDealloc: true)
    process.standardInput = handle
    process.standardOutput = handle
    process.standardError = handle
    try process.run()
    try handle.close()
    Thread.detachNewThread { [self, master] in
      var chunk = [UInt8](repeating: 0, count: 4096)
      // EIO once the program has closed its side.
      while case let count = read(master, &chunk, chunk.count), count > 0 {
        seen.withLock { $0.append(contentsOf: chunk[..<count]) }
      }
      ended.signal()
    }
  }

  deinit {
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    close(master)
  }

  /// All that it has written, escape sequences too.
  public var output: String { seen.withLock { String(decoding: $0, as: UTF8.self) } }

  public func type(_ keys: String) {
    let bytes = Array(keys.utf8)
    _ = write(master, bytes, bytes.count)
  }

  public func signal(_ number: Int32) { kill(process.processIdentifier, number) }

  /// Waits for it to end; its exit status, or 128 and the signal.
  public func wait(upTo seconds: Double = 20) async throws -> Int32 {
    try await eventually(upTo: seconds, "the end of a program on a terminal") {
      !self.process.isRunning
    }
    return process.terminationReason == .exit
      ? process.terminationStatus : 128 + process.terminationStatus
  }
}
