//! Rewrites a parsed template so that every step that can produce much data is accounted for.
//!
//! Operators of the engine cannot be overridden, so they become calls of the functions that
//! [`super::environment`] registers under names that no template can spell.

use minijinja::machinery::Span;
use minijinja::machinery::ast::{
    AutoEscape, BinOp, BinOpKind, Call, CallArg, Compare, CompareOp, Const, Do, EmitExpr, Expr,
    Filter, FilterBlock, ForLoop, GetAttr, GetItem, IfCond, IfExpr, List, Map, Set, SetBlock,
    Slice, Spanned, Stmt, Template, Test, Tuple, UnaryOp, UnaryOpKind, Var, WithBlock,
};

/// Adds its arguments.
pub(super) const ADD: &str = "+";
/// Multiplies its arguments.
pub(super) const MULTIPLY: &str = "*";
/// Writes its arguments one after the other.
pub(super) const CONCATENATE: &str = "~";
/// Accounts for its argument, and gives it back.
pub(super) const CHARGE: &str = "[]";

/// The guarded form of an expression.
pub(super) fn expression<'a>(expr: &Expr<'a>) -> Expr<'a> {
    let span = expr.span();
    match expr {
        Expr::Var(var) => Expr::Var(Spanned::new(Var { id: var.id }, span)),
        Expr::Const(constant) => Expr::Const(Spanned::new(
            Const {
                value: constant.value.clone(),
            },
            span,
        )),
        Expr::Slice(slice) => {
            let optional = |expr: &Option<Expr<'a>>| expr.as_ref().map(expression);
            let slice = Slice {
                expr: expression(&slice.expr),
                start: optional(&slice.start),
                stop: optional(&slice.stop),
                step: optional(&slice.step),
            };
            charged(Expr::Slice(Spanned::new(slice, span)), span)
        }
        Expr::UnaryOp(unary) => Expr::UnaryOp(Spanned::new(
            UnaryOp {
                op: match unary.op {
                    UnaryOpKind::Not => UnaryOpKind::Not,
                    UnaryOpKind::Neg => UnaryOpKind::Neg,
                },
                expr: expression(&unary.expr),
            },
            span,
        )),
        Expr::BinOp(binary) => binary_operator(binary, span),
        Expr::Compare(compare) => {
            let ops = compare.ops.iter().map(|part| CompareOp {
                op: part.op,
                expr: expression(&part.expr),
            });
            Expr::Compare(Spanned::new(
                Compare {
                    expr: expression(&compare.expr),
                    ops: ops.collect(),
                },
                span,
            ))
        }
        Expr::IfExpr(conditional) => Expr::IfExpr(Spanned::new(
            IfExpr {
                test_expr: expression(&conditional.test_expr),
                true_expr: expression(&conditional.true_expr),
                false_expr: conditional.false_expr.as_ref().map(expression),
            },
            span,
        )),
        Expr::Filter(filter) => Expr::Filter(Spanned::new(
            Filter {
                name: filter.name,
                expr: filter.expr.as_ref().map(expression),
                args: arguments(&filter.args),
            },
            span,
        )),
        Expr::Test(test) => Expr::Test(Spanned::new(
            Test {
                name: test.name,
                expr: expression(&test.expr),
                args: arguments(&test.args),
            },
            span,
        )),
        Expr::GetAttr(get) => Expr::GetAttr(Spanned::new(
            GetAttr {
                expr: expression(&get.expr),
                name: get.name,
            },
            span,
        )),
        Expr::GetItem(get) => Expr::GetItem(Spanned::new(
            GetItem {
                expr: expression(&get.expr),
                subscript_expr: expression(&get.subscript_expr),
            },
            span,
        )),
        Expr::Call(call) => Expr::Call(guarded_call(call)),
        Expr::List(list) => charged(
            Expr::List(Spanned::new(
                List {
                    items: expressions(&list.items),
                },
                span,
            )),
            span,
        ),
        Expr::Tuple(tuple) => charged(
            Expr::Tuple(Spanned::new(
                Tuple {
                    items: expressions(&tuple.items),
                },
                span,
            )),
            span,
        ),
        Expr::Map(map) => charged(
            Expr::Map(Spanned::new(
                Map {
                    keys: expressions(&map.keys),
                    values: expressions(&map.values),
                },
                span,
            )),
            span,
        ),
    }
}

fn binary_operator<'a>(binary: &BinOp<'a>, span: Span) -> Expr<'a> {
    let left = expression(&binary.left);
    let right = expression(&binary.right);
    let function = match binary.op {
        BinOpKind::Add => ADD,
        BinOpKind::Mul => MULTIPLY,
        BinOpKind::Concat => CONCATENATE,
        op => return Expr::BinOp(Spanned::new(BinOp { op, left, right }, span)),
    };
    call(function, vec![left, right], span)
}

fn charged<'a>(expr: Expr<'a>, span: Span) -> Expr<'a> {
    call(CHARGE, vec![expr], span)
}

fn call<'a>(function: &'static str, arguments: Vec<Expr<'a>>, span: Span) -> Expr<'a> {
    Expr::Call(Spanned::new(
        Call {
            expr: Expr::Var(Spanned::new(Var { id: function }, span)),
            args: arguments.into_iter().map(CallArg::Pos).collect(),
        },
        span,
    ))
}

fn guarded_call<'a>(call: &Spanned<Call<'a>>) -> Spanned<Call<'a>> {
    Spanned::new(
        Call {
            expr: expression(&call.expr),
            args: arguments(&call.args),
        },
        call.span(),
    )
}

fn expressions<'a>(exprs: &[Expr<'a>]) -> Vec<Expr<'a>> {
    exprs.iter().map(expression).collect()
}

fn arguments<'a>(arguments: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    arguments
        .iter()
        .map(|argument| match argument {
            CallArg::Pos(expr) => CallArg::Pos(expression(expr)),
            CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, expression(expr)),
            CallArg::PosSplat(expr) => CallArg::PosSplat(expression(expr)),
            CallArg::KwargSplat(expr) => CallArg::KwargSplat(expression(expr)),
        })
        .collect()
}

/// The guarded form of a statement. Literal text becomes a value that is emitted, so that the
/// formatter of the environment counts it too.
pub(super) fn statement<'a>(stmt: &Stmt<'a>) -> Stmt<'a> {
    match stmt {
        Stmt::Template(template) => Stmt::Template(Spanned::new(
            Template {
                children: statements(&template.children),
            },
            template.span(),
        )),
        Stmt::EmitExpr(emit) => Stmt::EmitExpr(Spanned::new(
            EmitExpr {
                expr: expression(&emit.expr),
            },
            emit.span(),
        )),
        Stmt::EmitRaw(emit) => {
            let text = Const {
                value: emit.raw.into(),
            };
            Stmt::EmitExpr(Spanned::new(
                EmitExpr {
                    expr: Expr::Const(Spanned::new(text, emit.span())),
                },
                emit.span(),
            ))
        }
        Stmt::ForLoop(each) => Stmt::ForLoop(Spanned::new(
            ForLoop {
                target: target(&each.target),
                iter: expression(&each.iter),
                filter_expr: each.filter_expr.as_ref().map(expression),
                recursive: each.recursive,
                body: statements(&each.body),
                else_body: statements(&each.else_body),
            },
            each.span(),
        )),
        Stmt::IfCond(condition) => Stmt::IfCond(Spanned::new(
            IfCond {
                expr: expression(&condition.expr),
                true_body: statements(&condition.true_body),
                false_body: statements(&condition.false_body),
            },
            condition.span(),
        )),
        Stmt::WithBlock(block) => Stmt::WithBlock(Spanned::new(
            WithBlock {
                assignments: block
                    .assignments
                    .iter()
                    .map(|(name, value)| (target(name), expression(value)))
                    .collect(),
                body: statements(&block.body),
            },
            block.span(),
        )),
        Stmt::Set(set) => Stmt::Set(Spanned::new(
            Set {
                target: target(&set.target),
                expr: expression(&set.expr),
            },
            set.span(),
        )),
        Stmt::SetBlock(set) => Stmt::SetBlock(Spanned::new(
            SetBlock {
                target: target(&set.target),
                filter: set.filter.as_ref().map(expression),
                body: statements(&set.body),
            },
            set.span(),
        )),
        Stmt::AutoEscape(block) => Stmt::AutoEscape(Spanned::new(
            AutoEscape {
                enabled: expression(&block.enabled),
                body: statements(&block.body),
            },
            block.span(),
        )),
        Stmt::FilterBlock(block) => Stmt::FilterBlock(Spanned::new(
            FilterBlock {
                filter: expression(&block.filter),
                body: statements(&block.body),
            },
            block.span(),
        )),
        Stmt::Do(call) => Stmt::Do(Spanned::new(
            Do {
                call: guarded_call(&call.call),
            },
            call.span(),
        )),
    }
}

fn statements<'a>(stmts: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    stmts.iter().map(statement).collect()
}

/// What is assigned to keeps its shape: a name, a list of names, or a field of a namespace.
fn target<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::List(list) => Expr::List(Spanned::new(
            List {
                items: list.items.iter().map(target).collect(),
            },
            list.span(),
        )),
        Expr::Tuple(tuple) => Expr::Tuple(Spanned::new(
            Tuple {
                items: tuple.items.iter().map(target).collect(),
            },
            tuple.span(),
        )),
        other => expression(other),
    }
}
