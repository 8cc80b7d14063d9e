// A traced step as a list of operators that runs without the interpreter: one call instead of some hundreds, and none of
// Python's lock, which the event loop and the other stages' threads want.

#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/custom_class.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace {

// Built by a caller that pushes the arguments of a call, then calls; see program.py.
class Program : public torch::CustomClassHolder {
public:
    explicit Program(int64_t registers) : registers_(registers) {}

    void number(int64_t value) { pending_.push_back({c10::IValue(value)}); }
    void real(double value) { pending_.push_back({c10::IValue(value)}); }
    void truth(bool value) { pending_.push_back({c10::IValue(value)}); }
    void text(const std::string& value) { pending_.push_back({c10::IValue(value)}); }
    void nothing() { pending_.push_back({c10::IValue()}); }
    void device(const std::string& name) { pending_.push_back({c10::IValue(c10::Device(name))}); }
    void tensor(const at::Tensor& value) { pending_.push_back({c10::IValue(value)}); }
    void from(int64_t place) { pending_.push_back({c10::IValue(), checked(place)}); }

    // Makes the last ``count`` arguments one.
    void list(int64_t count) {
        TORCH_CHECK(count >= 0 && count <= static_cast<int64_t>(pending_.size()), "there are not so many arguments");
        Argument made{c10::IValue(), NONE, true};
        made.items.assign(pending_.end() - count, pending_.end());
        pending_.erase(pending_.end() - count, pending_.end());
        pending_.push_back(std::move(made));
    }

    // Calls an operator with the arguments so far.
    void call(const std::string& name, const std::string& overload, int64_t result) {
        const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
        const auto& schema = op.schema();
        TORCH_CHECK(pending_.size() == schema.arguments().size(), name, " takes other arguments");
        for (size_t n = 0; n < pending_.size(); ++n) {
            Argument& argument = pending_[n];
            argument.type = schema.arguments()[n].type();
            const bool tensor = argument.type->kind() == c10::TypeKind::TensorType;
            if (tensor && argument.constant.isScalar()) {
                at::Tensor number = c10::scalar_to_tensor(argument.constant.toScalar());
                number.unsafeGetTensorImpl()->set_wrapped_number(true);  // its type gives way to the other operand's
                argument.constant = number;
            }
            if (argument.type->kind() == c10::TypeKind::FloatType && argument.constant.isInt())
                argument.constant = static_cast<double>(argument.constant.toInt());
        }
        instructions_.push_back({op, std::move(pending_), checked(result), {}});
        pending_.clear();
    }

    // Takes an element of what is in a register.
    void item(int64_t of, int64_t index, int64_t result) {
        Argument from{c10::IValue(), checked(of)};
        Argument which{c10::IValue(index)};
        instructions_.push_back({std::nullopt, {from, which}, checked(result), {}});
    }

    // Lets go of a register behind the last call.
    void forget(int64_t place) { instructions_.back().forgets.push_back(checked(place)); }

    void returns(int64_t place) { result_ = checked(place); }

    at::Tensor run(const at::Tensor& tokens, const at::Tensor& positions, const at::Tensor& wanted) {
        std::vector<c10::IValue> values(registers_);
        values[0] = tokens;
        values[1] = positions;
        values[2] = wanted;
        torch::jit::Stack stack;
        for (const Instruction& each : instructions_) {
            if (each.op) {
                stack.clear();
                for (const Argument& argument : each.arguments) stack.push_back(argument.value(values));
                each.op->callBoxed(&stack);
                values[each.result] = stack.size() == 1 ? std::move(stack[0]) : c10::ivalue::Tuple::create(std::move(stack));
            } else {
                values[each.result] = element(values[each.arguments[0].place], each.arguments[1].constant.toInt());
            }
            for (const int64_t place : each.forgets) values[place] = c10::IValue();
        }
        return values[result_].toTensor();
    }

private:
    static constexpr int64_t NONE = -1;

    struct Argument {
        c10::IValue constant;
        int64_t place = NONE;
        bool is_list = false;
        std::vector<Argument> items;
        c10::TypePtr type;

        c10::IValue value(const std::vector<c10::IValue>& values) const {
            if (place != NONE) return values[place];
            return is_list ? listed(values) : constant;
        }

        c10::IValue listed(const std::vector<c10::IValue>& values) const {
            c10::TypePtr of = type->kind() == c10::TypeKind::OptionalType ? type->expectRef<c10::OptionalType>().getElementType()
                                                                          : type;
            of = of->expectRef<c10::ListType>().getElementType();
            if (of->kind() == c10::TypeKind::SymIntType) of = c10::IntType::get();
            c10::impl::GenericList list(of);
            for (const Argument& item : items) list.push_back(item.value(values));
            return list;
        }
    };

    struct Instruction {
        std::optional<c10::OperatorHandle> op;  // none: an element of the first argument
        std::vector<Argument> arguments;
        int64_t result;
        std::vector<int64_t> forgets;
    };

    static c10::IValue element(const c10::IValue& of, int64_t index) {
        if (of.isTuple()) return of.toTupleRef().elements().at(index);
        return of.toListRef().at(index);
    }

    int64_t checked(int64_t place) const {
        TORCH_CHECK(place >= 0 && place < registers_, "there is no register ", place);
        return place;
    }

    int64_t registers_;
    int64_t result_ = 0;
    std::vector<Argument> pending_;
    std::vector<Instruction> instructions_;
};

}  // namespace
