# bpftune. `make run` and `make test` are all that one needs to know; both
# install what is missing first (as root).

PREFIX ?= /usr/local
DESTDIR ?=
SWIFT ?= swift
RELEASE = --configuration release --static-swift-stdlib
# What `make run` passes to the daemon.
ARGS ?= --foreground --verbose

# Chosen on the command line or in the environment.
export KERNEL TESTS

.PHONY: run test test-long build install bench lint demo clean deps test-vm new-tuner

## run: build, and run the daemon in the foreground until Ctrl-C
run: build
	.build/release/bpftune $(ARGS)

## test: the tests but for the long ones; the integration tests need root
test: deps
	$(SWIFT) build --build-tests
	$(SWIFT) test --skip-build --skip LongTests

## test-long: the tests that take minutes, classes named ...LongTests
test-long: deps
	$(SWIFT) build --build-tests
	$(SWIFT) test --skip-build --filter LongTests

## build: the release executable, .build/release/bpftune
build: deps
	$(SWIFT) build $(RELEASE) --product bpftune

## install: executable, man pages and licence, below DESTDIR and PREFIX
install: build
	install -D -m 755 .build/release/bpftune $(DESTDIR)$(PREFIX)/sbin/bpftune
	for page in man/*.8; do \
		install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man8/$${page##*/} || exit 1; \
	done
	install -D -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/bpftune/LICENSE

## demo: two namespaces, a long path, small buffers; before and after
demo: deps
	$(SWIFT) build --configuration release
	.build/release/bpftune-demo

## bench: measure the daemon; BENCH="latency --json" picks a group or the format
bench: deps
	$(SWIFT) build $(RELEASE)
	.build/release/bpftune-bench $(BENCH)

## test-vm: the integration tests on Debian's kernels; KERNEL= and TESTS= choose
test-vm: deps
	Tests/vm/suite

## new-tuner: lay out the files of a new tuner; NAME=its-name
new-tuner:
	@scripts/new-tuner "$(NAME)"

## lint: formatting, man pages, shell scripts
lint: deps
	$(SWIFT) format lint --strict --recursive Sources Tests Plugins Package.swift
	mandoc -T lint -W warning man/*.8
	shellcheck .ci/run scripts/deps scripts/new-tuner Tests/vm/run Tests/vm/init Tests/vm/suite Tests/vm/kernels

## deps: install the libraries and tools that are missing, by apt or dnf
deps:
	@scripts/deps

clean:
	rm -rf .build
