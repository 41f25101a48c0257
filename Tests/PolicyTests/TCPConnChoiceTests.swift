import TestSupport
import XCTest

/// The choice of tcp-conn (bpf/tcp_conn_choice.h) over a simulated day, with
/// samples that are off by up to 30 %.
final class TCPConnChoiceTests: XCTestCase {
  private static let hours = 24

  private struct Day {
    let chosen: String
    /// In the first hour, and in those after it.
    let early: Int
    let switches: Int
    let trials: Int
  }

  private func day(_ path: String, seed: Int) async throws -> Day {
    let words = try await execute(
      Products.path("choice-simulator"), path, "\(Self.hours)", "\(seed)"
    ).split(whereSeparator: \.isWhitespace).map(String.init)
    guard words.count == 8, let early = Int(words[3]), let switches = Int(words[5]),
      let trials = Int(words[7])
    else { throw Command.Failure("choice-simulator: \(words)") }
    return Day(chosen: words[1], early: early, switches: switches, trials: trials)
  }

  func testNothingIsTriedWhereNothingIsWrong() async throws {
    for seed in 1...4 {
      let day = try await day("clean", seed: seed)
      XCTAssertEqual(day.chosen, "cubic")
      XCTAssertEqual(day.early + day.switches + day.trials, 0)
    }
  }

  func testWhatIsBetterIsFoundWithinTheHour() async throws {
    for (path, best) in [
      ("lossy", "bbr"), ("uneven", "bbr"), ("queue", "bbr"), ("marks", "dctcp"),
    ] {
      for seed in 1...4 {
        let day = try await day(path, seed: seed)
        XCTAssertEqual(day.chosen, best, path)
        XCTAssertGreaterThanOrEqual(day.early, 1, path)
      }
    }
  }

  /// Also where there is nothing between two algorithms but noise.
  func testASteadyPathIsSwitchedAtMostOnceAnHour() async throws {
    for path in ["lossy", "uneven", "equal", "nearly", "queue", "marks"] {
      for seed in 1...4 {
        let day = try await day(path, seed: seed)
        XCTAssertLessThanOrEqual(day.switches, Self.hours - 1, path)
        // Each trial is exploration: at most two algorithms an hour.
        XCTAssertLessThanOrEqual(day.trials, 2 * Self.hours, path)
      }
    }
  }
}
