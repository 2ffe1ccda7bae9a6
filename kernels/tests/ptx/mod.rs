//! The embedded PTX, executed by an interpreter: the kernels as a card gets them, where the host build has plain C++ in
//! place of the instructions that `cuda/hash` and `cuda/field` spell out. The threads of a block run one after the other, each
//! up to the next barrier; memory and queues are those of the emulated host, which also runs the kernels that sum points.

use std::collections::HashMap;
use std::slice;

use zgpu_core::device::{DeviceError, DeviceInfo};
use zgpu_kernels::emulated::{Host, HostMemory};
use zgpu_kernels::images;
use zgpu_kernels::runtime::{Kernel, Runtime};

/// Objects whose kernels are interpreted.
const INTERPRETED: [&str; 6] = ["draw", "merkle", "ntt", "scan", "seal", "slice"];

/// The host as a place that interprets PTX.
pub(crate) struct PtxHost {
    host: Host,
    objects: HashMap<&'static str, Object>,
}

impl Runtime for PtxHost {
    type Memory = HostMemory;
    type Staging = Vec<u8>;
    const LG_LOADS_PER_CHUNK: u32 = Host::LG_LOADS_PER_CHUNK;

    fn open(index: usize) -> Result<Self, DeviceError> {
        let objects = images::all()
            .iter()
            .filter(|image| image.ptx && INTERPRETED.contains(&image.object))
            .map(|image| (image.object, Object::parse(std::str::from_utf8(image.bytes).expect("PTX is text"))))
            .collect();
        Ok(Self { host: Host::open(index)?, objects })
    }
    fn fork(&self) -> Result<Self, DeviceError> {
        Self::open(0)
    }
    fn info(&self) -> &DeviceInfo {
        self.host.info()
    }
    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.host.free_bytes()
    }
    fn resident_threads(&self, kernel: Kernel) -> Result<u32, DeviceError> {
        self.host.resident_threads(kernel)
    }
    fn alloc(&self, what: &'static str, bytes: u64) -> Result<HostMemory, DeviceError> {
        self.host.alloc(what, bytes)
    }
    fn write(&self, memory: &mut HostMemory, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.host.write(memory, offset, bytes)
    }
    fn read(&self, memory: &HostMemory, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.host.read(memory, offset, bytes)
    }
    fn alloc_staging(&self, what: &'static str, bytes: u64) -> Result<Vec<u8>, DeviceError> {
        self.host.alloc_staging(what, bytes)
    }
    fn upload(&self, memory: &mut HostMemory, staging: &Vec<u8>, bytes: u64) -> Result<(), DeviceError> {
        self.host.upload(memory, staging, bytes)
    }
    fn download(&self, memory: &HostMemory, staging: &mut Vec<u8>, bytes: u64) -> Result<(), DeviceError> {
        self.host.download(memory, staging, bytes)
    }
    fn wait(&self) -> Result<(), DeviceError> {
        self.host.wait()
    }

    unsafe fn launch<A: Copy + Sync>(&self, kernel: Kernel, blocks: u32, args: &A) -> Result<(), DeviceError> {
        if !INTERPRETED.contains(&kernel.object()) {
            // SAFETY: the caller vouches for the arguments.
            return unsafe { self.host.launch(kernel, blocks, args) };
        }
        // SAFETY: argument structures hold plain numbers and have no padding.
        let args = unsafe { slice::from_raw_parts((&raw const *args).cast::<u8>(), size_of::<A>()) };
        let object = &self.objects[kernel.object()];
        let function = &object.functions[kernel.name()];
        for block in 0..blocks {
            function.run(args, object, block, kernel.threads_per_block());
        }
        Ok(())
    }
}

struct Object {
    /// Constant memory, by symbol.
    constants: HashMap<String, Vec<u8>>,
    functions: HashMap<String, Function>,
}

struct Function {
    code: Vec<Instruction>,
    registers: usize,
    /// Shared memory: symbol and bytes.
    shared: Vec<(String, usize)>,
}

struct Instruction {
    /// Predicate register and the value it must have.
    guard: Option<(usize, bool)>,
    op: Op,
    /// Opcode after its first part: types, modes.
    wide: bool,
    operands: Vec<Operand>,
}

#[derive(Clone, Debug)]
enum Operand {
    Register(usize),
    Number(u64),
    Vector(Vec<usize>),
    /// Register to add, symbol to add, offset.
    Place(Option<usize>, Option<String>, u64),
    Symbol(String),
    Thread,
    Block,
    BlockSize,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Mov,
    Xor,
    And,
    Or,
    Lop3,
    ShfLeftWrap,
    ShfRightWrap,
    Not,
    Min,
    Negate,
    ReverseBits,
    Prmt,
    /// Carry in, carry out.
    Add(bool, bool),
    /// Borrow in, borrow out.
    Sub(bool, bool),
    MulLow,
    MulHigh,
    MulWide(bool),
    /// High half, carry in, carry out.
    Mad(bool, bool, bool),
    Shl,
    ShrUnsigned,
    Bfi,
    Compare(fn(u64, u64) -> bool),
    Select,
    /// Values side by side.
    Load(usize),
    Store(usize),
    AtomicAdd,
    Branch,
    Barrier,
    Return,
}

impl Object {
    fn parse(text: &str) -> Self {
        let mut object = Object { constants: HashMap::new(), functions: HashMap::new() };
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(declaration) = line.strip_prefix(".const ") {
                let (left, right) = declaration.split_once('=').expect("a value");
                let name = left.split_whitespace().last().expect("a name").split('[').next().expect("a name");
                let values = right.trim_matches(|c: char| " {};".contains(c)).split(',');
                let width = if left.contains(".b8") { 1 } else { 4 };
                let bytes =
                    values.flat_map(|v| v.trim().parse::<u32>().expect("a number").to_le_bytes()[..width].to_vec());
                object.constants.insert(name.to_owned(), bytes.collect());
            } else if let Some(rest) = line.strip_prefix(".visible .entry ") {
                let name = rest.trim_end_matches('(').to_owned();
                let body: Vec<&str> =
                    lines.by_ref().skip_while(|line| *line != "{").skip(1).take_while(|line| *line != "}").collect();
                object.functions.insert(name, Function::parse(&body));
            }
        }
        object
    }
}

impl Function {
    fn parse(body: &[&str]) -> Self {
        let statements: Vec<&str> = body
            .iter()
            .map(|line| line.split("//").next().expect("a first part"))
            .flat_map(|line| line.split_inclusive([';', ':']))
            .map(|statement| statement.trim().trim_end_matches(';').trim())
            .filter(|statement| !statement.is_empty() && !statement.starts_with('.'))
            .collect();
        let mut labels = HashMap::new();
        let mut place = 0;
        for statement in &statements {
            match statement.strip_suffix(':') {
                Some(label) => drop(labels.insert(label, place)),
                None => place += 1,
            }
        }
        // .shared .align 4 .b8 name[bytes]
        let shared = body.iter().filter_map(|line| {
            let name = line.trim().strip_prefix(".shared ")?.split_whitespace().last()?.trim_end_matches([';', ']']);
            let (name, bytes) = name.split_once('[').expect("shared memory is an array of bytes");
            Some((name.to_owned(), bytes.parse().expect("a size")))
        });
        let shared = shared.collect();
        let mut registers = HashMap::new();
        let code = statements
            .iter()
            .filter(|statement| !statement.ends_with(':'))
            .map(|statement| Instruction::parse(statement, &labels, &mut registers))
            .collect();
        Self { code, registers: registers.len(), shared }
    }

    /// Runs one block: every thread to its end, or to the barriers that all threads reach.
    fn run(&self, args: &[u8], object: &Object, block: u32, threads: u32) {
        let shared: Vec<(&str, Vec<u64>)> =
            self.shared.iter().map(|(name, bytes)| (name.as_str(), vec![0; bytes.div_ceil(8)])).collect();
        let shared: HashMap<&str, u64> =
            shared.iter().map(|(name, words)| (*name, words.as_ptr().expose_provenance() as u64)).collect();
        let mut waiting: Vec<State<'_>> = (0..threads)
            .map(|thread| State {
                registers: vec![0; self.registers],
                carry: false,
                next: 0,
                object,
                shared: &shared,
                args,
                block,
                thread,
                threads,
            })
            .filter_map(|mut state| state.run(&self.code).then_some(state))
            .collect();
        while !waiting.is_empty() {
            assert_eq!(waiting.len(), threads as usize, "a thread has ended while another waits at a barrier");
            waiting.retain_mut(|state| state.run(&self.code));
        }
    }
}

impl Instruction {
    fn parse(statement: &str, labels: &HashMap<&str, usize>, registers: &mut HashMap<String, usize>) -> Self {
        let mut register = |name: &str| {
            let next = registers.len();
            *registers.entry(name.to_owned()).or_insert(next)
        };
        let (guard, rest) = match statement.strip_prefix('@') {
            None => (None, statement),
            Some(guarded) => {
                let (predicate, rest) = guarded.split_once(char::is_whitespace).expect("an instruction");
                let wanted = !predicate.starts_with('!');
                (Some((register(predicate.trim_start_matches('!')), wanted)), rest.trim())
            }
        };
        let (opcode, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let mut operands = Vec::new();
        let mut text = rest.trim();
        while !text.is_empty() {
            let end = match text.as_bytes()[0] {
                b'{' => text.find('}').expect("a closing brace") + 1,
                _ => text.find(',').unwrap_or(text.len()),
            };
            let operand = text[..end].trim();
            text = text[end..].trim_start_matches([',', ' ', '\t']);
            operands.push(if let Some(names) = operand.strip_prefix('{') {
                Operand::Vector(names.trim_end_matches('}').split(',').map(|name| register(name.trim())).collect())
            } else if let Some(place) = operand.strip_prefix('[') {
                let place = place.trim_end_matches(']');
                let (base, offset) = place.split_once('+').unwrap_or((place, "0"));
                let offset = number(offset).expect("an offset");
                if base.starts_with('%') {
                    Operand::Place(Some(register(base)), None, offset)
                } else {
                    Operand::Place(None, Some(base.to_owned()), offset)
                }
            } else {
                match operand {
                    "%tid.x" => Operand::Thread,
                    "%ctaid.x" => Operand::Block,
                    "%ntid.x" => Operand::BlockSize,
                    _ if operand.starts_with('%') => Operand::Register(register(operand)),
                    _ => match (number(operand), labels.get(operand)) {
                        (Some(number), _) => Operand::Number(number),
                        (None, Some(&place)) => Operand::Number(place as u64),
                        (None, None) => Operand::Symbol(operand.to_owned()),
                    },
                }
            });
        }
        let (op, wide) = decode(opcode);
        Self { guard, op, wide, operands }
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse::<i64>().ok().map(|n| n as u64),
    }
}

/// Operation and whether its result has 64 bits. Panics on an instruction that the interpreter does not know.
fn decode(opcode: &str) -> (Op, bool) {
    let parts: Vec<&str> = opcode.split('.').collect();
    let last = *parts.last().expect("an opcode");
    let wide = last.ends_with("64");
    let has = |part| parts.contains(&part);
    let lanes = if has("v4") {
        4
    } else if has("v2") {
        2
    } else {
        1
    };
    let op = match parts[0] {
        "mov" | "cvt" | "cvta" => Op::Mov,
        "xor" => Op::Xor,
        "and" => Op::And,
        "or" => Op::Or,
        "lop3" => Op::Lop3,
        "shf" if has("l") && has("wrap") => Op::ShfLeftWrap,
        "shf" if has("r") && has("wrap") => Op::ShfRightWrap,
        "not" => Op::Not,
        "min" if last.starts_with('u') => Op::Min,
        "brev" => Op::ReverseBits,
        "prmt" => Op::Prmt,
        "add" => Op::Add(false, has("cc")),
        "addc" => Op::Add(true, has("cc")),
        "sub" => Op::Sub(false, has("cc")),
        "subc" => Op::Sub(true, has("cc")),
        "neg" => Op::Negate,
        "mul" if has("wide") => Op::MulWide(last == "s32"),
        "mul" if has("lo") => Op::MulLow,
        "mul" if has("hi") && last == "u32" => Op::MulHigh,
        "mad" => Op::Mad(has("hi"), false, has("cc")),
        "madc" => Op::Mad(has("hi"), true, has("cc")),
        "shl" => Op::Shl,
        "shr" if last.starts_with('u') => Op::ShrUnsigned,
        "bfi" => Op::Bfi,
        "setp" => Op::Compare(match (parts[1], last) {
            ("eq", _) => |a, b| a == b,
            ("ne", _) => |a, b| a != b,
            ("lt", "u32" | "u64") => |a, b| a < b,
            ("le", "u32" | "u64") => |a, b| a <= b,
            ("gt", "u32" | "u64") => |a, b| a > b,
            ("ge", "u32" | "u64") => |a, b| a >= b,
            _ => panic!("unknown comparison {opcode}"),
        }),
        "selp" => Op::Select,
        "ld" if has("param") || has("const") || has("global") || has("shared") => Op::Load(lanes),
        "st" if has("global") || has("shared") => Op::Store(lanes),
        "atom" if has("global") && has("add") => Op::AtomicAdd,
        "bra" => Op::Branch,
        "bar" if has("sync") => Op::Barrier,
        "ret" => Op::Return,
        _ => panic!("unknown instruction {opcode}"),
    };
    (op, wide || matches!(op, Op::MulWide(_)))
}

/// One running thread.
struct State<'a> {
    registers: Vec<u64>,
    /// The carry of a sum, the borrow of a difference.
    carry: bool,
    /// Place of the next instruction.
    next: usize,
    object: &'a Object,
    /// Addresses of the block's shared memory.
    shared: &'a HashMap<&'a str, u64>,
    args: &'a [u8],
    block: u32,
    thread: u32,
    threads: u32,
}

impl State<'_> {
    /// Runs to a barrier, or to the end: then false.
    fn run(&mut self, code: &[Instruction]) -> bool {
        loop {
            let instruction = &code[self.next];
            self.next += 1;
            if let Some((predicate, wanted)) = instruction.guard
                && (self.registers[predicate] != 0) != wanted
            {
                continue;
            }
            match instruction.op {
                Op::Return => return false,
                Op::Barrier => return true,
                Op::Branch => self.next = self.value(&instruction.operands[0]) as usize,
                _ => self.execute(instruction),
            }
        }
    }

    fn value(&self, operand: &Operand) -> u64 {
        match operand {
            Operand::Register(register) => self.registers[*register],
            Operand::Number(number) => *number,
            Operand::Vector(parts) => self.registers[parts[0]] & 0xffff_ffff | self.registers[parts[1]] << 32,
            // Shared memory, a constant, or else the kernel's one parameter.
            Operand::Symbol(name) => match self.shared.get(name.as_str()) {
                Some(&address) => address,
                None => {
                    self.object.constants.get(name).map_or(self.args, Vec::as_slice).as_ptr().expose_provenance() as u64
                }
            },
            Operand::Thread => self.thread.into(),
            Operand::Block => self.block.into(),
            Operand::BlockSize => self.threads.into(),
            Operand::Place(register, symbol, offset) => {
                let base = register.map_or(0, |register| self.registers[register]);
                let symbol = symbol.as_ref().map_or(0, |name| self.value(&Operand::Symbol(name.clone())));
                base.wrapping_add(symbol).wrapping_add(*offset)
            }
        }
    }

    fn execute(&mut self, instruction: &Instruction) {
        let Instruction { op, wide, operands, .. } = instruction;
        let (op, wide) = (*op, *wide);
        let bits = if wide { 64 } else { 32 };
        let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
        let get = |i: usize| cut(self.value(&operands[i]));
        let result = match op {
            Op::Mov => get(1),
            Op::Xor => get(1) ^ get(2),
            Op::And => get(1) & get(2),
            Op::Or => get(1) | get(2),
            Op::Lop3 => {
                let (a, b, c, table) = (get(1), get(2), get(3), get(4));
                // Bit i of the table: the result where the bits of a, b, c spell i.
                let pick = |word: u64, i: u64| if i != 0 { word } else { !word };
                (0..8)
                    .filter(|i| table >> i & 1 == 1)
                    .fold(0, |sum, i| sum | pick(a, i & 4) & pick(b, i & 2) & pick(c, i & 1))
            }
            Op::ShfLeftWrap => ((get(2) << 32 | get(1)) << (get(3) & 31)) >> 32,
            Op::ShfRightWrap => (get(2) << 32 | get(1)) >> (get(3) & 31),
            Op::Not => !get(1),
            Op::Negate => get(1).wrapping_neg(),
            Op::Min => get(1).min(get(2)),
            Op::ReverseBits => u64::from((get(1) as u32).reverse_bits()),
            Op::Prmt => {
                let bytes = get(2) << 32 | get(1);
                (0..4).fold(0, |sum, i| {
                    let selector = get(3) >> (4 * i) & 15;
                    assert!(selector < 8, "no sign replication is used");
                    sum | (bytes >> (8 * selector) & 0xff) << (8 * i)
                })
            }
            Op::Add(carry_in, carry_out) => {
                let carry = u128::from(carry_in && self.carry);
                let sum = u128::from(get(1)) + u128::from(get(2)) + carry;
                if carry_out {
                    self.carry = sum >> bits != 0;
                }
                sum as u64
            }
            Op::Sub(borrow_in, borrow_out) => {
                let (from, taken) = (u128::from(get(1)), u128::from(get(2)) + u128::from(borrow_in && self.carry));
                if borrow_out {
                    self.carry = from < taken;
                }
                from.wrapping_sub(taken) as u64
            }
            Op::MulLow => get(1).wrapping_mul(get(2)),
            Op::MulHigh => (get(1) * get(2)) >> 32,
            Op::MulWide(signed) => {
                let (a, b) = (self.value(&operands[1]) as u32, self.value(&operands[2]) as u32);
                if signed {
                    i64::from(a as i32).wrapping_mul((b as i32).into()) as u64
                } else {
                    u64::from(a) * u64::from(b)
                }
            }
            Op::Mad(high, carry_in, carry_out) => {
                assert!(!wide, "multiply-add is used on 32 bits");
                let product = get(1) * get(2);
                let part = if high { product >> 32 } else { product & 0xffff_ffff };
                let sum = part + get(3) + u64::from(carry_in && self.carry);
                if carry_out {
                    self.carry = sum >> 32 != 0;
                }
                sum
            }
            Op::Shl => get(1).checked_shl(get(2) as u32).unwrap_or(0),
            Op::ShrUnsigned => get(1).checked_shr(get(2) as u32).unwrap_or(0),
            Op::Bfi => {
                let (position, length) = (get(3), get(4));
                let mask = (u64::MAX >> (64 - length)) << position;
                get(2) & !mask | get(1) << position & mask
            }
            Op::Compare(compare) => compare(get(1), get(2)).into(),
            Op::Select => {
                if self.value(&operands[3]) != 0 {
                    get(1)
                } else {
                    get(2)
                }
            }
            Op::Load(lanes) => {
                let place = std::ptr::with_exposed_provenance(self.value(&operands[1]) as usize);
                return self.load(place, lanes, bits / 8, &operands[0]);
            }
            Op::Store(lanes) => {
                let place: *mut u8 = std::ptr::with_exposed_provenance_mut(self.value(&operands[0]) as usize);
                for lane in 0..lanes {
                    let value = match &operands[1] {
                        Operand::Vector(parts) => self.registers[parts[lane]],
                        single => self.value(single),
                    };
                    // SAFETY: the launch vouches for every address that the kernel writes.
                    unsafe {
                        place.add(lane * bits / 8).copy_from_nonoverlapping(value.to_le_bytes().as_ptr(), bits / 8);
                    }
                }
                return;
            }
            Op::AtomicAdd => {
                let place: *mut u32 = std::ptr::with_exposed_provenance_mut(self.value(&operands[1]) as usize);
                // SAFETY: the launch vouches for the address; threads run one after the other.
                unsafe {
                    let old = place.read();
                    place.write(old.wrapping_add(self.value(&operands[2]) as u32));
                    old.into()
                }
            }
            Op::Branch | Op::Barrier | Op::Return => unreachable!("the loop takes these"),
        };
        match &operands[0] {
            Operand::Register(register) => self.registers[*register] = cut(result),
            // mov.b64 {low, high}, value
            Operand::Vector(parts) => {
                self.registers[parts[0]] = result & 0xffff_ffff;
                self.registers[parts[1]] = result >> 32;
            }
            other => panic!("no result goes to {other:?}"),
        }
    }

    fn load(&mut self, place: *const u8, lanes: usize, width: usize, to: &Operand) {
        for lane in 0..lanes {
            let mut bytes = [0; 8];
            // SAFETY: parameters and constants are slices of this length; for global memory the launch vouches for every
            // address that the kernel reads.
            unsafe { place.add(lane * width).copy_to_nonoverlapping(bytes.as_mut_ptr(), width) };
            let register = match to {
                Operand::Vector(parts) => parts[lane],
                Operand::Register(register) => *register,
                other => panic!("no load goes to {other:?}"),
            };
            self.registers[register] = u64::from_le_bytes(bytes);
        }
    }
}
